"""The boxes that proposals start from: constants of the input's size."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.networks.regions.config import RATIOS, STRIDES_PX, RegionConfig


def anchors(config: RegionConfig) -> list[Tensor]:
    """Return the anchors of each feature map [places * ratios, 4] in pixels.

    Places run row by row, and at each place the ratios of height to width. An anchor's centre is
    where its place begins, as published checkpoints of Mask R-CNN on Swin were trained.

    Source: Ren et al., NeurIPS 2015, arXiv:1506.01497, section 3.1.1; one scale a feature map as
    in Lin et al., CVPR 2017, arXiv:1612.03144, section 4.1.
    """
    shapes = torch.tensor([[ratio**-0.5, ratio**0.5] for ratio in RATIOS])
    found = []
    for (height, width), stride in zip(config.map_sizes(), STRIDES_PX, strict=True):
        halves = 0.5 * config.anchor_side * stride * shapes
        y_px, x_px = torch.meshgrid(
            torch.arange(height) * float(stride), torch.arange(width) * float(stride), indexing="ij"
        )
        centres = torch.stack([x_px, y_px], dim=-1).reshape(-1, 1, 2)
        found.append(torch.cat([centres - halves, centres + halves], dim=-1).reshape(-1, 4))
    return found
