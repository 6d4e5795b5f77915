"""From classified regions to a fixed number of objects, the best first."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.boxes import overlaps
from compress.criteria.regions import best_class, of_class
from compress.networks.regions.config import RegionConfig
from compress.networks.regions.nms import kept
from compress.networks.regions.offsets import Spread, moved, taken


def detect(
    regions: Tensor, valid: Tensor, judged: tuple[Tensor, Tensor], config: RegionConfig
) -> dict[str, Tensor]:
    """Choose objects among all pairs of a region and a class.

    Args:
        regions: [b, r, 4] in pixels.
        valid: [b, r] bool: whether a region counts.
        judged: Logits [b, r, classes + 1] and offsets [b, r, classes or 1, 4] of the last stage.
        config: Says how many.

    Returns:
        ``scores`` [b, q], 0 where a place is not taken, ``labels`` [b, q] int64 and ``boxes``
        [b, q, 4] in pixels.
    """
    logits, offsets = judged
    classes = logits.shape[2] - 1
    likely = logits.softmax(dim=2)[:, :, :classes] * valid[..., None]
    scores, pairs = likely.flatten(1).topk(min(config.candidates, likely[0].numel()), dim=1)
    places = torch.div(pairs, classes, rounding_mode="floor")
    labels = pairs - places * classes
    moves = offsets.flatten(1, 2)
    moves = taken(moves, places if offsets.shape[2] == 1 else pairs)
    boxes = moved(taken(regions, places), moves, config.spreads()[-1], config.image_size)
    stays = kept(boxes, config.detection_overlap, config.sweeps, labels)
    if config.box_voting:
        boxes = voted(boxes, scores, labels, config.detection_overlap)
    scores = scores * stays * (scores > config.least_score)
    top, order = scores.topk(min(config.detections, scores.shape[1]), dim=1)
    return {"scores": top, "labels": labels.gather(1, order), "boxes": taken(boxes, order)}


def voted(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return for each box the mean of those of its class that overlap it, weighted by score.

    Which of several nearly equal boxes suppresses the others is decided by the last digits of their
    scores, which rounding to INT8 changes. Their mean is the same whichever it is.

    Args:
        boxes: [b, n, 4].
        scores: [b, n], from 0 on.
        labels: [b, n].
        threshold: Intersection over union above which another box has a vote.

    Source:
        Box voting: Gidaris and Komodakis, ICCV 2015 (arXiv:1505.01749), section 4.2.
    """
    near = (overlaps(boxes, boxes) > threshold) & (labels[..., :, None] == labels[..., None, :])
    # Of places without an object, whose scores are 0 and whose boxes may have no area.
    itself = torch.eye(boxes.shape[-2], dtype=boxes.dtype, device=boxes.device) * 1e-6
    weights = near.to(boxes.dtype) * scores[..., None, :] + itself
    return weights @ boxes / weights.sum(dim=-1, keepdim=True)


def refined(
    regions: Tensor, judged: tuple[Tensor, Tensor], spread: Spread, size_px: tuple[int, int]
) -> Tensor:
    """Return the regions [b, r, 4] as the next stage of a cascade reads them.

    Args:
        regions: [b, r, 4] in pixels.
        judged: Logits [b, r, classes + 1] and offsets [b, r, classes or 1, 4] of this stage.
        spread: Of its offsets.
        size_px: Height and width of the picture.
    """
    logits, offsets = (part.detach().float() for part in judged)
    return moved(regions, of_class(offsets, best_class(logits)), spread, size_px)
