"""Mask R-CNN and its cascade on a Swin: every step of it of a fixed size.

Source: He et al., ICCV 2017, arXiv:1703.06870; Cai and Vasconcelos, CVPR 2018, arXiv:1712.00726,
and its journal version, arXiv:1906.09756, for masks in a cascade.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SwinBackbone

from compress.networks import swin_backbone
from compress.networks.regions.anchors import anchors
from compress.networks.regions.config import (
    ANCHOR_SPREAD,
    POOLED_STRIDES_PX,
    STAGE_OVERLAPS,
    RegionConfig,
)
from compress.networks.regions.detections import detect, refined
from compress.networks.regions.fpn import FeaturePyramid
from compress.networks.regions.heads import BOX_SIDE, MASK_INPUT_SIDE, BoxHead, MaskHead
from compress.networks.regions.matching import anchor_goals, region_goals, some
from compress.networks.regions.offsets import offsets_between, taken
from compress.networks.regions.roi_align import pooled
from compress.networks.regions.rpn import ProposalHead, propose

Raw = dict[str, Tensor]


class RegionBody(nn.Module):
    """Proposes regions, classifies them and draws masks.

    What it gives is a dictionary, so that two networks can be compared part by part. Without a
    hint it finds its own regions and answers with detections. With a hint it judges the regions
    of the hint, its teacher's and those of labelled objects, and gives what losses compare.

    Args:
        config: Of the whole network.
    """

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        self.config = config
        swin = config.swin()
        self.backbone = SwinBackbone(swin)
        swin_backbone.drop_last_norm(self.backbone)
        widths = [swin.embed_dim * 2**stage for stage in range(len(POOLED_STRIDES_PX))]
        self.neck = FeaturePyramid(widths, config.channels)
        self.rpn = ProposalHead(config.channels)
        self.box_heads = nn.ModuleList([BoxHead(config) for _ in range(config.stages)])
        self.mask_heads = nn.ModuleList([MaskHead(config) for _ in range(config.stages)])
        for level, boxes in enumerate(anchors(config)):
            self.register_buffer(f"anchors_{level}", boxes, persistent=False)

    def set_attn_implementation(self, name: str | dict[str, str]) -> None:
        """Choose how attention is computed; see transformers' method of this name."""
        self.backbone.set_attn_implementation(name)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the configuration and the weights into a folder."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), place / "model.safetensors")
        text = json.dumps(self.config.as_dict(), indent=1)
        (place / "config.json").write_text(text, encoding="utf-8")

    def anchors(self) -> list[Tensor]:
        """Return the anchors of each feature map [anchors, 4] in pixels."""
        levels = range(len(POOLED_STRIDES_PX) + 1)
        return [getattr(self, f"anchors_{level}") for level in levels]

    def forward(self, pixel_values: Tensor, hint: Mapping[str, Tensor] | None = None) -> Raw:
        """Look at pictures.

        Args:
            pixel_values: [b, 3, h, w] of the configured size.
            hint: What :func:`compress.networks.regions.hints.hint` gives; None to detect.

        Returns:
            Always: ``objectness`` [b, a] and ``anchor_offsets`` [b, a, 4]; ``valid`` [b, r]; for
            each stage s ``regions.s`` [b, r, 4], ``logits.s`` [b, r, classes + 1] and
            ``offsets.s`` [b, r, classes or 1, 4].
            Without a hint, also ``scores``, ``labels`` and ``boxes`` of the detections, and
            ``masks.s`` [b, q, 28, 28], logits of their classes.
            With regions of a teacher, ``masks.s`` of its detections.
            With labelled objects, also what was drawn of them: ``anchor_goals`` and
            ``anchor_goal_offsets``; ``goals.s`` [b, r] and ``goal_offsets.s`` [b, r, 4];
            ``drawn.s`` [b, m, 28, 28], their ``drawn_boxes.s``, and ``drawn_objects.s`` [b, m],
            places among the objects, -1 where there is none.
        """
        maps = self.neck(list(self.backbone(pixel_values=pixel_values).feature_maps))
        objectness, offsets = self.rpn(maps)
        raw = {
            "objectness": torch.cat(objectness, dim=1),
            "anchor_offsets": torch.cat(offsets, dim=1),
        }
        if hint is None:
            hint = {}
        if "regions.0" in hint:
            regions, valid = hint["regions.0"], hint["valid"]
        else:
            regions, valid = propose(objectness, offsets, self.anchors(), self.config)
        if "object_labels" in hint:
            boxes, labels = hint["object_boxes"], hint["object_labels"]
            regions = torch.cat([regions, boxes], dim=1)
            valid = torch.cat([valid, labels >= 0], dim=1)
            raw |= self._anchor_goals(boxes, labels)
        raw |= self._judge(maps, regions, valid, hint)
        return raw | self._draw(maps, raw, hint)

    def _anchor_goals(self, boxes: Tensor, labels: Tensor) -> Raw:
        count = self.config.sampled_anchors
        goals, offsets = anchor_goals(
            torch.cat(self.anchors()), boxes, labels, count, ANCHOR_SPREAD
        )
        return {"anchor_goals": goals, "anchor_goal_offsets": offsets}

    def _judge(
        self, maps: list[Tensor], regions: Tensor, valid: Tensor, hint: Mapping[str, Tensor]
    ) -> Raw:
        """Classify and move regions, stage after stage."""
        raw = {"valid": valid}
        for stage, head in enumerate(self.box_heads):
            if stage:
                before = raw[f"logits.{stage - 1}"], raw[f"offsets.{stage - 1}"]
                spread = self.config.spreads()[stage - 1]
                regions = refined(regions, before, spread, self.config.image_size)
                if (given := hint.get(f"regions.{stage}")) is not None:
                    # Those of labelled objects, behind the teacher's, go their own way.
                    regions = torch.cat([given, regions[:, given.shape[1] :]], dim=1)
            logits, offsets = head(self._pooled(maps, regions, BOX_SIDE), regions.shape[0])
            raw[f"regions.{stage}"] = regions
            raw[f"logits.{stage}"], raw[f"offsets.{stage}"] = logits, offsets
            if "object_labels" in hint:
                raw |= self._region_goals(stage, regions, valid, hint)
        return raw

    def _region_goals(
        self, stage: int, regions: Tensor, valid: Tensor, hint: Mapping[str, Tensor]
    ) -> Raw:
        objects = hint["object_boxes"], hint["object_labels"]
        places = region_goals(
            regions, valid, objects, STAGE_OVERLAPS[stage], self.config.sampled_regions
        )
        spread = self.config.spreads()[stage]
        offsets = offsets_between(regions, taken(objects[0], places.clamp(min=0)), spread)
        return {f"goals.{stage}": places, f"goal_offsets.{stage}": offsets}

    def _draw(self, maps: list[Tensor], raw: Raw, hint: Mapping[str, Tensor]) -> Raw:
        """Detect objects and draw their masks, or draw those that losses need."""
        if not hint:
            found = self._detected(raw)
            return found | self._masks(maps, found["boxes"], found["labels"])
        drawn: Raw = {}
        if "mask_boxes" in hint:
            drawn |= self._masks(maps, hint["mask_boxes"], hint["mask_labels"])
        if "object_labels" in hint:
            for stage, head in enumerate(self.mask_heads):
                drawn |= self._drawn(maps, stage, head, raw, hint)
        return drawn

    def _detected(self, raw: Raw) -> Raw:
        stages = range(self.config.stages)
        logits = torch.stack([raw[f"logits.{stage}"] for stage in stages]).mean(dim=0)
        last = self.config.stages - 1
        judged = logits.detach().float(), raw[f"offsets.{last}"].detach().float()
        return detect(raw[f"regions.{last}"], raw["valid"], judged, self.config)

    def _masks(self, maps: list[Tensor], boxes: Tensor, labels: Tensor) -> Raw:
        features = self._pooled(maps, boxes, MASK_INPUT_SIDE)
        heads = enumerate(self.mask_heads)
        return {f"masks.{stage}": head(features, labels) for stage, head in heads}

    def _drawn(
        self,
        maps: list[Tensor],
        stage: int,
        head: nn.Module,
        raw: Raw,
        hint: Mapping[str, Tensor],
    ) -> Raw:
        goals = raw[f"goals.{stage}"]
        places, there = some(goals >= 0, self.config.sampled_masks)
        objects = goals.gather(1, places)
        labels = hint["object_labels"].gather(1, objects.clamp(min=0)).clamp(min=0)
        boxes = taken(raw[f"regions.{stage}"], places)
        return {
            f"drawn.{stage}": head(self._pooled(maps, boxes, MASK_INPUT_SIDE), labels),
            f"drawn_boxes.{stage}": boxes,
            f"drawn_objects.{stage}": torch.where(there, objects, torch.full_like(objects, -1)),
        }

    def _pooled(self, maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        count = len(POOLED_STRIDES_PX)
        first_px = self.config.pooled_side_px
        return pooled(maps[:count], POOLED_STRIDES_PX, boxes, side, first_px)
