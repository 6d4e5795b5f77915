"""Which object of one answer is which of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compress.evaluate import Answers

# Objects below this score are noise to whoever looks at them.
SEEN = 0.3


def pairs(expected: Answers, came: Answers, picture: int) -> list[tuple[int, float, float]]:
    """Pair each object that is seen with the nearest box of the same class in another answer.

    Args:
        expected: ``scores``, ``labels`` and ``boxes`` of the graph contract.
        came: The same, of another network.
        picture: Its place in the batch.

    Returns:
        Of each object: its place, the overlap with the nearest box, and the difference of the
        scores; overlap 0 and its whole score where there is no box of its class.
    """
    seen = np.flatnonzero(expected["scores"][picture] >= SEEN).tolist()
    return [(place, *_nearest(expected, came, picture, place)) for place in seen]


def _nearest(expected: Answers, came: Answers, picture: int, place: int) -> tuple[float, float]:
    score = float(expected["scores"][picture, place])
    same = came["labels"][picture] == expected["labels"][picture, place]
    # Places that hold no object have score 0.
    same &= came["scores"][picture] > 0
    if not same.any():
        return 0.0, score
    found = overlaps(expected["boxes"][picture, place], came["boxes"][picture][same])
    # Of boxes in the same place, the one with the nearest score.
    apart = np.abs(came["scores"][picture][same] - score)
    best = int(np.lexsort((apart, -found.round(3)))[0])
    return float(found[best]), float(apart[best])


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
