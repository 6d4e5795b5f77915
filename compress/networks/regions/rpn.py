"""The region proposal network: where something is, before anybody asks what.

Source: Ren et al., NeurIPS 2015, arXiv:1506.01497, section 3.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.networks.regions.config import ANCHOR_SPREAD, RATIOS, RegionConfig
from compress.networks.regions.nms import kept
from compress.networks.regions.offsets import moved, taken

# Below every logit, and within what float16 holds.
_NOTHING = -1.0e4


class ProposalHead(nn.Module):
    """Judges and moves every anchor; the same weights on every feature map.

    Args:
        channels: Of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(RATIOS), 1)
        self.offsets = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for layer in (self.conv, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return, for each of the maps, logits [b, anchors] and offsets [b, anchors, 4]."""
        logits, offsets = [], []
        for features in maps:
            hidden = F.relu(self.conv(features))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            moves = self.offsets(hidden).permute(0, 2, 3, 1)
            offsets.append(moves.reshape(moves.shape[0], -1, 4))
        return logits, offsets


def propose(
    logits: list[Tensor], offsets: list[Tensor], anchors: list[Tensor], config: RegionConfig
) -> tuple[Tensor, Tensor]:
    """Choose a fixed number of regions, the best first.

    Args:
        logits: [b, anchors] of each feature map.
        offsets: [b, anchors, 4] of each.
        anchors: [anchors, 4] of each.
        config: Says how many.

    Returns:
        Boxes [b, proposals, 4] in pixels, and [b, proposals] bool: whether a place is taken. The
        others hold boxes that do not count, where fewer are left than asked for.
    """
    best = [_best(*level, config) for level in zip(logits, offsets, anchors, strict=True)]
    scores = torch.stack([scores for scores, _ in best], dim=1)
    boxes = torch.stack([boxes for _, boxes in best], dim=1)
    stays = kept(boxes, config.proposal_overlap, config.sweeps) > 0.5
    scores = torch.where(stays, scores, _NOTHING).flatten(1)
    count = min(config.proposals, scores.shape[1])
    top, places = scores.topk(count, dim=1)
    return taken(boxes.flatten(1, 2), places), top > _NOTHING / 2


def _best(
    logits: Tensor, offsets: Tensor, anchors: Tensor, config: RegionConfig
) -> tuple[Tensor, Tensor]:
    """Return scores [b, candidates] and boxes [b, candidates, 4] of one feature map."""
    count = min(config.candidates, anchors.shape[0])
    scores, places = logits.detach().float().topk(count, dim=1)
    moves = taken(offsets.detach().float(), places)
    boxes = moved(F.embedding(places, anchors), moves, ANCHOR_SPREAD, config.image_size)
    # A coarse map has fewer anchors; filled up, all maps are looked through at once.
    missing = config.candidates - count
    if missing:
        scores = F.pad(scores, (0, missing), value=_NOTHING)
        boxes = F.pad(boxes, (0, 0, 0, missing))
    return scores, boxes
