"""Masks as polygons along the edges of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.paste import Region

Polygon = list[int]


@dataclass(frozen=True)
class _Corners:
    """The points where the outline of a mask turns, from the top and from the left.

    A point where two pixels touch by their corners is there twice. Each is joined to one other
    along its row and to one along its column.
    """

    rows: list[int]
    columns: list[int]
    along_row: list[int]
    along_column: list[int]
    begins_inside: list[bool]


def outlines(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Return the outer outline of each part of a mask, as COCO has it: x1, y1, x2, y2 and so on.

    A pixel covers the square from its index to the next, so an outline runs between pixels and
    filling it gives back exactly the mask. Parts that touch by corners only are parts of their
    own. Holes are left out: filling an outline fills them.

    Args:
        mask: [height, width].

    >>> outlines(np.array([[True, True, False], [False, False, True]]))
    [[0, 0, 2, 0, 2, 1, 0, 1], [2, 1, 3, 1, 3, 2, 2, 2]]
    """
    corners = _corners(mask)
    polygons: list[Polygon] = []
    seen = bytearray(len(corners.rows))
    # From the top left corner of a part its outline goes right, and from that of a hole too.
    for start in range(len(seen)):
        if seen[start]:
            continue
        polygon: Polygon = []
        at, along_row = start, True
        while not seen[at]:
            seen[at] = 1
            polygon += (corners.columns[at], corners.rows[at])
            at = corners.along_row[at] if along_row else corners.along_column[at]
            along_row = not along_row
        if corners.begins_inside[start]:
            polygons.append(polygon)
    return polygons


def of_region(region: Region) -> list[Polygon]:
    """Return the outer outlines of a mask that lies somewhere in a picture."""
    begin = (region.left_px, region.top_px)
    return [
        [at + begin[i % 2] for i, at in enumerate(polygon)] for polygon in outlines(region.mask)
    ]


def _corners(mask: npt.NDArray[np.bool_]) -> _Corners:
    padded = np.pad(mask, 1)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    odd = above_left ^ above_right ^ below_left ^ below_right
    touching = (
        (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    )
    rows, columns = np.nonzero(odd | touching)
    point = np.repeat(np.arange(len(rows)), 1 + touching[rows, columns])
    second = np.diff(point, prepend=-1) == 0
    rows, columns = rows[point], columns[point]
    # Of two copies the first has the edge to its left. The two pixels stay parts of their own if
    # it has the edge upwards where the pixel above left is set, and the one downwards elsewhere.
    downwards = second == below_right[rows, columns]
    by_row = np.arange(len(rows))
    by_column = np.lexsort((downwards, rows, columns))
    return _Corners(
        rows.tolist(),
        columns.tolist(),
        _partners(by_row).tolist(),
        _partners(by_column).tolist(),
        below_right[rows, columns].tolist(),
    )


def _partners(order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Join the points two by two, in an order in which each edge has its ends side by side."""
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners
