"""The feature pyramid: coarse maps say what, fine ones where; each sum holds both.

Source: Lin et al., CVPR 2017, arXiv:1612.03144, section 3 and, for the fifth map, section 4.1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Turns the maps of a backbone's stages into maps of one width.

    Args:
        inputs: Channels of each stage, finest first.
        channels: Of every output.
    """

    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([nn.Conv2d(width, channels, 1) for width in inputs])
        self.outputs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs])
        for layer in [*self.laterals, *self.outputs]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Map [b, inputs, h, w] each to [b, channels, h, w] each, and one map more."""
        sums = [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            sums[level - 1] = sums[level - 1] + _enlarged(sums[level], sums[level - 1])
        maps = [output(one) for output, one in zip(self.outputs, sums, strict=True)]
        return [*maps, F.max_pool2d(maps[-1], kernel_size=1, stride=2)]


def _enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """Repeat the places of a coarse map until it is as large as a fine one."""
    size = fine.shape[2:]
    if [2 * side for side in coarse.shape[2:]] == list(size):
        # A constant factor, where a runtime would otherwise be handed a computed size.
        return F.interpolate(coarse, scale_factor=2.0, mode="nearest")
    return F.interpolate(coarse, size=size, mode="nearest")
