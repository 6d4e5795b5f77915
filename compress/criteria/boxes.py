"""Boxes, as corners (xyxy) and as centre and sides, and how far two of them overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor) -> Tensor:
    """Return [..., 4] boxes given by centre and sides as corners."""
    centre, sides = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=-1)


def giou(ones: Tensor, others: Tensor) -> Tensor:
    """Return the generalised overlap of each of [b, n, 4] with each of [b, m, 4] xyxy: [b, n, m].

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    return paired_giou(ones[:, :, None], others[:, None])


def paired_giou(ones: Tensor, others: Tensor) -> Tensor:
    """Return the generalised overlap of boxes [..., 4] xyxy with others that broadcast: [...]."""
    shared = _area(
        torch.maximum(ones[..., :2], others[..., :2]), torch.minimum(ones[..., 2:], others[..., 2:])
    )
    united = _area(ones[..., :2], ones[..., 2:]) + _area(others[..., :2], others[..., 2:]) - shared
    hull = _area(
        torch.minimum(ones[..., :2], others[..., :2]), torch.maximum(ones[..., 2:], others[..., 2:])
    )
    # No box of a network is empty in float32, but a target may be.
    tiny = torch.finfo(shared.dtype).tiny
    return shared / united.clamp(min=tiny) - (hull - united) / hull.clamp(min=tiny)


def _area(first: Tensor, last: Tensor) -> Tensor:
    return (last - first).clamp(min=0).prod(dim=-1)
