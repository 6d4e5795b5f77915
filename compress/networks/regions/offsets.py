"""Offsets from one box (xyxy, in pixels) to another, and rows by their places."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A box grows or shrinks at most by this factor at once; an untrained network asks for more.
_MOST_LOG_SCALE = math.log(1000 / 16)
# Below this a side has no length that can be divided by.
_SMALLEST_PX = 1e-3

# What one unit of an offset is: of a centre in sides, and of the logarithm of a side.
Spread = tuple[float, float]


def moved(boxes: Tensor, offsets: Tensor, spread: Spread, size_px: tuple[int, int]) -> Tensor:
    """Move boxes by offsets and clip them to the picture.

    Args:
        boxes: [..., 4], or what broadcasts to it.
        offsets: [..., 4]: of the centre in units of the sides, and of the sides' logarithms.
        spread: What one unit of each offset is.
        size_px: Height and width of the picture.

    Source: Girshick et al., CVPR 2014, arXiv:1311.2524, appendix C.
    """
    shift, growth = offsets[..., :2] * spread[0], offsets[..., 2:] * spread[1]
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * sides + shift * sides
    half = 0.5 * sides * growth.clamp(-_MOST_LOG_SCALE, _MOST_LOG_SCALE).exp()
    height, width = size_px
    x_px = torch.stack([centre[..., 0] - half[..., 0], centre[..., 0] + half[..., 0]], dim=-1)
    y_px = torch.stack([centre[..., 1] - half[..., 1], centre[..., 1] + half[..., 1]], dim=-1)
    x_px, y_px = x_px.clamp(0, width), y_px.clamp(0, height)
    return torch.stack([x_px[..., 0], y_px[..., 0], x_px[..., 1], y_px[..., 1]], dim=-1)


def offsets_between(boxes: Tensor, goals: Tensor, spread: Spread) -> Tensor:
    """Return the offsets that move ``boxes`` onto ``goals``, both [..., 4]."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_SMALLEST_PX)
    goal_sides = (goals[..., 2:] - goals[..., :2]).clamp(min=_SMALLEST_PX)
    centre, goal_centre = boxes[..., :2] + 0.5 * sides, goals[..., :2] + 0.5 * goal_sides
    shift, growth = (goal_centre - centre) / sides, (goal_sides / sides).log()
    return torch.cat([shift / spread[0], growth / spread[1]], dim=-1)


def taken(values: Tensor, places: Tensor) -> Tensor:
    """Return rows of [b, n, ...] by their places [b, m]: [b, m, ...]."""
    tail = values.shape[2:]
    index = places.reshape(*places.shape, *[1] * len(tail)).expand(-1, -1, *tail)
    return values.gather(1, index)
