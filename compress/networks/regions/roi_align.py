"""Features of regions: RoIAlign over a pyramid, each region from the map that fits its size.

In training every output is a weighted sum of sixteen places, two by two samples of four
neighbours each, which torch's bag of embeddings computes without keeping the samples. Under
export it is the ONNX operator RoiAlign, once a feature map: regions that belong to another map
are laid outside, where the operator reads zeros, and the maps' outputs are added.

Source: He et al., ICCV 2017, arXiv:1703.06870, section 3; equation 1 of Lin et al., CVPR 2017,
arXiv:1612.03144, for the map that a region is read from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.boxes import areas

# Far outside every picture, and within what float16 holds.
_OUTSIDE_PX = -2.0e4
# Samples along each side of an output cell.
_SAMPLES = 2


def pooled(
    maps: list[Tensor], strides_px: tuple[int, ...], boxes: Tensor, side: int, first_px: float
) -> Tensor:
    """Read regions from the feature maps that fit their sizes.

    Args:
        maps: [b, channels, h, w] each, finest first.
        strides_px: Of the maps.
        boxes: [b, n, 4] in pixels of the picture.
        side: Of the output.
        first_px: Boxes from twice this side on belong to the second map, and so on by powers.

    Returns:
        [b * n, channels, side, side].
    """
    levels = levels_of(boxes, first_px, len(maps))
    if torch.compiler.is_exporting():
        return _exported(maps, strides_px, boxes, levels, side)
    return _summed(maps, strides_px, boxes, levels, side)


def levels_of(boxes: Tensor, first_px: float, count: int) -> Tensor:
    """Return the index of the feature map that each of the boxes [b, n, 4] belongs to: [b, n]."""
    sides = areas(boxes).clamp(min=0).sqrt()
    # The published code adds as much before it rounds down.
    steps = [first_px * 2.0**level * (1 - 1e-6) for level in range(1, count)]
    return torch.stack([(sides >= step).long() for step in steps]).sum(dim=0)


def _exported(
    maps: list[Tensor], strides_px: tuple[int, ...], boxes: Tensor, levels: Tensor, side: int
) -> Tensor:
    batch, count = boxes.shape[:2]
    pictures = torch.arange(batch)[:, None].expand(batch, count).reshape(-1)
    total = boxes.new_zeros(())
    for level, (features, stride) in enumerate(zip(maps, strides_px, strict=True)):
        here = (levels == level)[..., None]
        regions = torch.where(here, boxes, _OUTSIDE_PX).reshape(-1, 4)
        output = torch.onnx.ops.symbolic(
            "RoiAlign",
            (features, regions, pictures),
            {
                "output_height": side,
                "output_width": side,
                "sampling_ratio": _SAMPLES,
                "spatial_scale": 1 / stride,
                "mode": "avg",
                "coordinate_transformation_mode": "half_pixel",
            },
            dtype=torch.float32,
            shape=(regions.shape[0], features.shape[1], side, side),
            version=16,
        )
        total = total + output if level else output
    return total


def _summed(
    maps: list[Tensor], strides_px: tuple[int, ...], boxes: Tensor, levels: Tensor, side: int
) -> Tensor:
    batch, count = boxes.shape[:2]
    # Autocast computes the maps in fewer bits; as tables they are read in float32.
    table = torch.cat([features.flatten(2) for features in maps], dim=2).float()
    sizes = [features.shape[2:] for features in maps]
    starts = [0]
    for height, width in sizes:
        starts.append(starts[-1] + height * width)

    def of_level(values: list[int]) -> Tensor:
        # By arithmetic: a table would be copied to the device at every step.
        chosen = [value * (levels == level) for level, value in enumerate(values)]
        return torch.stack(chosen).sum(dim=0)

    heights, widths = (of_level([int(size[axis]) for size in sizes]) for axis in (0, 1))
    scaled = boxes.detach().float() / of_level(list(strides_px))[..., None]
    rows, row_weights = _places(scaled[..., 1], scaled[..., 3], heights, side)
    columns, column_weights = _places(scaled[..., 0], scaled[..., 2], widths, side)
    first = of_level(starts[:-1]) + torch.arange(batch, device=boxes.device)[:, None] * starts[-1]
    # [b, n, side, side, 4, 4]: rows of the output, columns of it, and what is read for each.
    rows = first[..., None, None] + rows * widths[..., None, None]
    places = rows[:, :, :, None, :, None] + columns[:, :, None, :, None, :]
    weights = row_weights[:, :, :, None, :, None] * column_weights[:, :, None, :, None, :]
    each = (2 * _SAMPLES) ** 2
    output = F.embedding_bag(
        places.reshape(-1, each),
        table.transpose(1, 2).reshape(-1, table.shape[1]),
        per_sample_weights=weights.reshape(-1, each) / _SAMPLES**2,
        mode="sum",
    )
    return output.reshape(batch * count, side, side, -1).permute(0, 3, 1, 2)


def _places(start: Tensor, end: Tensor, lengths: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return what is read along one axis: indices and weights, both [b, n, side, 4]."""
    cell = (end - start)[..., None] / side
    inside = (torch.arange(side * _SAMPLES, device=start.device) + 0.5) / _SAMPLES
    # A place's centre is half a place behind its edge.
    at = start[..., None] - 0.5 + inside * cell
    last = (lengths - 1)[..., None]
    seen = (at >= -1) & (at <= lengths[..., None])
    at = at.clamp(min=0)
    # No number, where training diverged, would be no index; the weights keep it for the loss.
    low = torch.minimum(at.floor().long().clamp(min=0), last)
    high = torch.minimum(low + 1, last)
    share = torch.where(low < last, at - low, torch.zeros_like(at))
    weights = torch.stack([1 - share, share], dim=-1) * seen[..., None]
    places = torch.stack([low, high], dim=-1)
    shape = (*start.shape, side, 2 * _SAMPLES)
    return places.reshape(shape), weights.reshape(shape)
