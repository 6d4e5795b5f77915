"""Boxes of networks, as corners (xyxy) or as centre and sides, and how far two of them overlap."""

from __future__ import annotations

import torch
from torch import Tensor

# Below this a side has no length that can be divided by.
_SMALLEST_PX = 1e-3


def to_xyxy(boxes: Tensor) -> Tensor:
    """Return [..., 4] boxes given by centre and sides as corners."""
    centre, sides = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=-1)


def areas(boxes: Tensor) -> Tensor:
    """Return the areas of [..., 4] xyxy: [...]."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the overlap of each of [..., m, 4] with each of [..., n, 4]: [..., m, n].

    That is intersection over union, of boxes xyxy in pixels; 0 for two boxes without any area.
    """
    ones, others = boxes[..., :, None, :], others[..., None, :, :]
    shared = _shared(ones, others)
    united = areas(ones) + areas(others) - shared
    return shared / united.clamp(min=_SMALLEST_PX**2)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised overlap of each of [..., m, 4] with each of [..., n, 4]: [..., m, n].

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    return paired_giou(boxes[..., :, None, :], others[..., None, :, :])


def paired_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised overlap of boxes [..., 4] xyxy with others that broadcast: [...]."""
    shared = _shared(boxes, others)
    united = areas(boxes) + areas(others) - shared
    first = torch.minimum(boxes[..., :2], others[..., :2])
    last = torch.maximum(boxes[..., 2:], others[..., 2:])
    hull = areas(torch.cat([first, last], dim=-1))
    # No box of a network is empty in float32, but a target may be.
    tiny = torch.finfo(shared.dtype).tiny
    return shared / united.clamp(min=tiny) - (hull - united) / hull.clamp(min=tiny)


def _shared(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the area that two boxes share, of boxes [..., 4] that broadcast: [...]."""
    first = torch.maximum(boxes[..., :2], others[..., :2])
    last = torch.minimum(boxes[..., 2:], others[..., 2:])
    sides = (last - first).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
