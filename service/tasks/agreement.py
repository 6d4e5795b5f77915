"""How far two networks agree about one picture, whatever each sees of it. Pure NumPy.

Classes are the same where their label ids are. Each function returns measures by name, 0 to 1, and
leaves out those that do not apply.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contract.view import UNSEEN, Cells
from service.tasks.task import Seen

# What a detector is less sure of counts for nothing, as in an answer that nobody chose otherwise.
MIN_SCORE: Final = 0.3
MIN_IOU: Final = 0.5
# Points along each side of a picture at which maps are compared.
_MOST_POINTS: Final = 256
_UNKNOWN: Final = -1

Floats = npt.NDArray[np.float64]


def of_classes(one: Seen, other: Seen) -> dict[str, float]:
    """Return whether the likeliest class is the same, as `top1`."""
    first, second = (
        seen.labels.ids[int(np.argmax(seen.outputs["scores"][0]))] for seen in (one, other)
    )
    return {"top1": float(first == second)}


def of_boxes(one: Seen, other: Seen) -> dict[str, float]:
    """Return the share of the boxes that both have, and how well those lie on one another.

    Boxes are the same where their labels are and they overlap by half; each counts once, the
    best pairs first.

    Returns:
        `matched`: of the boxes of both, the share that is in a pair; 1 where there are none.
        `box_iou`: the mean over the pairs; left out where there are none.
    """
    boxes, labels = zip(*(_boxes(seen) for seen in (one, other)), strict=True)
    count = sum(map(len, boxes))
    if not count:
        return {"matched": 1.0}
    overlaps = np.where(labels[0][:, None] == labels[1], _ious(*boxes), 0.0)
    paired = _pairs(overlaps)
    found = {"matched": 2 * len(paired) / count}
    return {**found, "box_iou": float(np.mean(paired))} if paired else found


def of_maps(one: Seen, other: Seen) -> dict[str, float]:
    """Compare class maps at up to 256 x 256 points of the picture that both have seen.

    Returns:
        `pixels`: at how many of the points the class is the same.
        `mean_iou`: points where both have a class, by points where either has it, over the
            classes. Both are left out where the two have seen nothing in common.
    """
    maps = [_sampled(seen) for seen in (one, other)]
    seen = (maps[0] != UNSEEN) & (maps[1] != UNSEEN)
    if not seen.any():
        return {}
    first = maps[0][seen].astype(np.intp)
    second = _translated(one, other)[maps[1][seen]]
    same = first == second
    classes = range(max(len(one.labels), len(other.labels)) + 1)
    counts = [np.bincount(values, minlength=len(classes)) for values in (first[same], first)]
    theirs = np.bincount(second[second != _UNKNOWN], minlength=len(classes))
    union = counts[1] + theirs - counts[0]
    ious = counts[0][union > 0] / union[union > 0]
    return {"pixels": float(same.mean()), "mean_iou": float(ious.mean())}


def _boxes(seen: Seen) -> tuple[Floats, npt.NDArray[Any]]:
    """Return the boxes in the picture, [n, 4], and their label ids."""
    sure = seen.outputs["scores"][0] >= np.float32(MIN_SCORE)
    boxes = seen.view.clipped(seen.view.boxes(seen.outputs["boxes"][0][sure]))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    ids = np.array(seen.labels.ids)
    return boxes[inside], ids[seen.outputs["labels"][0][sure][inside]]


def _ious(one: Floats, other: Floats) -> Floats:
    """Return the overlap of each of n boxes with each of m, [n, m]."""
    begins = np.maximum(one[:, None, :2], other[:, :2])
    ends = np.minimum(one[:, None, 2:], other[:, 2:])
    shared = np.prod(np.maximum(ends - begins, 0), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (one, other)]
    ious: Floats = shared / (areas[0][:, None] + areas[1] - shared)
    return ious


def _pairs(overlaps: Floats) -> list[float]:
    """Return the overlaps of the pairs, each box in one at most."""
    left, paired = overlaps.copy(), []
    for _ in range(min(overlaps.shape)):
        row, column = np.unravel_index(np.argmax(left), left.shape)
        if left[row, column] < MIN_IOU:
            break
        paired.append(float(left[row, column]))
        left[row, :] = left[:, column] = 0
    return paired


def _sampled(seen: Seen) -> npt.NDArray[np.uint8]:
    """Return the classes at the points, :data:`UNSEEN` where there is none."""
    rows, columns = seen.view.cells()
    width, height = seen.view.size_px
    down, across = _lines(rows, height), _lines(columns, width)
    found: npt.NDArray[np.uint8] = seen.outputs["class_map"][0][down[:, None], across]
    return np.where((down[:, None] >= 0) & (across >= 0), found, np.uint8(UNSEEN))


def _lines(cells: Cells, length_px: int) -> npt.NDArray[np.intp]:
    """Return the line of the input that shows each point along one side; -1 where none does."""
    count = min(length_px, _MOST_POINTS)
    points = ((np.arange(count) + 0.5) * length_px / count).astype(np.intp)
    if not len(cells.index):
        return np.full(count, -1, np.intp)
    place = np.searchsorted(cells.edges_px, points, side="right") - 1
    inside = (place >= 0) & (place < len(cells.index))
    return np.where(inside, cells.index[np.clip(place, 0, len(cells.index) - 1)], -1)


def _translated(one: Seen, other: Seen) -> npt.NDArray[np.intp]:
    """Return for each class of the other what it is among those of the one."""
    known = {label: index for index, label in enumerate(one.labels.ids)}
    table = np.full(UNSEEN + 1, _UNKNOWN, np.intp)
    table[: len(other.labels)] = [known.get(label, _UNKNOWN) for label in other.labels.ids]
    return table
