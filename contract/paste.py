"""The mask of one box, laid into the picture's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_INSIDE: Final = 0.5
# So many values are computed at once.
_AT_ONCE: Final = 4_000_000


@dataclass(frozen=True)
class Region:
    """A mask over a part of a picture.

    Args:
        mask: [height, width] bool.
        left_px: Where it begins in the picture.
        top_px: Likewise.
    """

    mask: npt.NDArray[np.bool_]
    left_px: int
    top_px: int


def paste(
    mask: npt.NDArray[np.float32], box: npt.NDArray[np.float64], size_px: tuple[int, int]
) -> Region:
    """Lay a mask over its box and keep what lies in the picture.

    Each pixel of the picture takes the bilinear value at its centre, with nothing beyond the
    mask's edge; half and more is inside.

    Args:
        mask: [m, m], 0 to 1.
        box: [4] left, top, right, bottom in pixels of the picture, which it may reach beyond.
        size_px: Width and height of the picture.

    Source:
        The rule of ``paste_masks_in_image`` in detectron2 0.6.
    """
    left, top, right, bottom = box
    first_row, rows = _weights((top, bottom), size_px[1], mask.shape[0])
    first_column, columns = _weights((left, right), size_px[0], mask.shape[1])
    across = mask @ columns.T
    inside = np.empty((len(rows), len(columns)), bool)
    step = max(1, _AT_ONCE // max(1, len(columns)))
    for start in range(0, len(rows), step):
        inside[start : start + step] = rows[start : start + step] @ across >= _INSIDE
    return Region(inside, first_column, first_row)


def _weights(
    side: tuple[float, float], length_px: int, cells: int
) -> tuple[int, npt.NDArray[np.float32]]:
    """Return the first pixel that a side of a box covers, and each pixel's share of each cell.

    Returns:
        The first pixel, and [pixels, cells].
    """
    begin, end = side
    first = int(np.clip(np.floor(begin), 0, length_px))
    last = int(np.clip(np.ceil(end), first, length_px))
    centres = np.arange(first, last) + 0.5
    places = (centres - begin) * (cells / (end - begin)) - 0.5
    distance = np.abs(places[:, None] - np.arange(cells))
    return first, np.maximum(0, 1 - distance).astype(np.float32)
