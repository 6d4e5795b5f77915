"""Which object of one answer is which of another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compress.answers import Answers

# Objects below this score are noise to whoever looks at them.
SEEN = 0.3
# Boxes that overlap by less are of different objects.
SAME_OBJECT = 0.5


class Pair(NamedTuple):
    """An object of one answer, and what is nearest to it in another.

    Args:
        place: Of the object.
        other: Place of the box of its class that overlaps it most; None where there is none.
        overlap: Intersection over union of the two; 0 without another.
        apart: Difference of the scores; the whole score without another.
    """

    place: int
    other: int | None
    overlap: float
    apart: float


def pairs(expected: Answers, came: Answers, picture: int, seen: float = SEEN) -> list[Pair]:
    """Pair each object that is seen, the best first, with a box of its class in another answer.

    A box is the same object once only, so that a second one in its place finds none.

    Args:
        expected: ``scores``, ``labels`` and ``boxes`` of the graph contract.
        came: The same, of another network.
        picture: Its place in the batch.
        seen: Lowest score of the objects that are paired; 0 pairs whatever holds an object.
    """
    # Places that hold no object have score 0.
    free = came["scores"][picture] > 0
    found = []
    scores = expected["scores"][picture]
    for place in np.flatnonzero((scores > 0) & (scores >= seen)).tolist():
        alike = free & (came["labels"][picture] == expected["labels"][picture, place])
        pair = _nearest(expected, came, (picture, place), np.flatnonzero(alike))
        if pair.other is not None and pair.overlap >= SAME_OBJECT:
            free[pair.other] = False
        found.append(pair)
    return found


def _nearest(
    expected: Answers, came: Answers, at: tuple[int, int], alike: npt.NDArray[np.intp]
) -> Pair:
    picture, place = at
    score = float(expected["scores"][at])
    if not len(alike):
        return Pair(place, None, 0.0, score)
    found = overlaps(expected["boxes"][at], came["boxes"][picture][alike])
    # Of boxes in the same place, the one with the nearest score.
    apart = np.abs(came["scores"][picture][alike] - score)
    best = int(np.lexsort((apart, -found.round(3)))[0])
    return Pair(place, int(alike[best]), float(found[best]), float(apart[best]))


def overlaps(box: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the intersection over union of one [4] box with [n, 4] others, xyxy.

    >>> overlaps(np.array([0, 0, 2, 2]), np.array([[0, 0, 2, 1], [4, 4, 5, 5]])).tolist()
    [0.5, 0.0]
    """
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    found: npt.NDArray[Any] = shared / np.maximum(areas - shared, 1e-12)
    return found
