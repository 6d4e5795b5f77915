"""Sampling of deformable attention: by grid in torch, by gathers in an exported graph.

TensorRT has computed GridSample of deformable attention wrongly in several versions without a
word (NVIDIA/TensorRT#4813, #4646); a gather of rows it computes as everybody does.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)


class DeformableSampling(MultiScaleDeformableAttention):
    """What transformers' module computes; under export without GridSample."""

    def forward(  # noqa: PLR0913, PLR0917 - transformers' signature
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """Sample maps of several levels and add up what was found.

        Args:
            value: [b, places of all levels, heads, channels].
            value_spatial_shapes: Not needed.
            value_spatial_shapes_list: Height and width of each level.
            level_start_index: Not needed.
            sampling_locations: [b, q, heads, levels, points, 2], x and y in 0..1 of the level.
            attention_weights: [b, q, heads, levels, points].
            im2col_step: Of a kernel that is not used here.

        Returns:
            [b, q, heads * channels].
        """
        if torch.compiler.is_exporting():
            return gathered(value, value_spatial_shapes_list, sampling_locations, attention_weights)
        sampled: Tensor = super().forward(
            value,
            value_spatial_shapes,
            value_spatial_shapes_list,
            level_start_index,
            sampling_locations,
            attention_weights,
            im2col_step,
        )
        return sampled


def use_gathers(body: nn.Module) -> None:
    """Let every deformable attention of a body export as gathers."""
    for module in body.modules():
        attention: Any = module
        if isinstance(getattr(attention, "attn", None), MultiScaleDeformableAttention):
            attention.attn = DeformableSampling()


def gathered(
    value: Tensor, sizes: list[tuple[int, int]], places: Tensor, weights: Tensor
) -> Tensor:
    """Sample bilinearly, zeros outside, by one gather of rows for each of four neighbours.

    Args:
        value: [b, places of all levels, heads, channels].
        sizes: Height and width of each level.
        places: [b, q, heads, levels, points, 2], x and y in 0..1 of the level.
        weights: [b, q, heads, levels, points].

    Returns:
        [b, q, heads * channels].
    """
    batch, length, heads, channels = value.shape
    rows = value.reshape(batch * length * heads, channels)
    wide = places.new_tensor([width for _, width in sizes])[:, None]
    high = places.new_tensor([height for height, _ in sizes])[:, None]
    x, y = places[..., 0] * wide - 0.5, places[..., 1] * high - 0.5
    left, top = x.floor(), y.floor()
    first = _first_rows(places, sizes, batch, length * heads)
    output = None
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + right, top + below
        inside = (column >= 0) & (column < wide) & (row >= 0) & (row < high)
        share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
        # Clamped before the cast: far outside, a float fits no integer.
        place = row.minimum(high - 1).clamp(min=0) * wide + column.minimum(wide - 1).clamp(min=0)
        found = nn.functional.embedding((first + place.long() * heads).flatten(3), rows)
        part = (found * (share * weights).flatten(3)[..., None]).sum(dim=3)
        output = part if output is None else output + part
    assert output is not None  # noqa: S101 - four neighbours
    return output.flatten(2)


def _first_rows(places: Tensor, sizes: list[tuple[int, int]], batch: int, rows: int) -> Tensor:
    """Return the row of each level's first place, by picture, head and level: [b, 1, h, l, 1]."""
    heads = places.shape[2]
    starts = [0, *accumulate(height * width for height, width in sizes)][: len(sizes)]
    device = places.device
    level = torch.tensor(starts, device=device)[:, None] * heads
    head = torch.arange(heads, device=device)[:, None, None]
    picture = torch.arange(batch, device=device)[:, None, None, None, None] * rows
    return picture + head + level
