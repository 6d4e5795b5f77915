"""Mean IoU and pixel accuracy, at the size of the annotated pictures.

A class map is brought back to its picture, each pixel as the nearest one that the network saw.
What it did not see, beside a centre crop, counts as wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from compress.data.pictures import IGNORED
from compress.errors import DataError, PlanError
from contract.view import UNSEEN, View, whole

if TYPE_CHECKING:
    from compress.answers import Answers
    from compress.data.ade20k import SceneParsing
    from compress.data.batch import Batch
    from contract.preprocess import Preprocessing

ClassMap = npt.NDArray[np.uint8]


class Pairs(NamedTuple):
    """Which true and answered classes meet in one picture, and how often.

    Args:
        true: [n] classes.
        answered: [n] classes; 255 for none.
        pixels: [n] how many have this pair.
    """

    true: npt.NDArray[np.intp]
    answered: npt.NDArray[np.intp]
    pixels: npt.NDArray[np.intp]


class MeanIou:
    """Scores ``class_map`` [b, h, w] on annotated scenes.

    Args:
        pictures: The scenes, opened for evaluation.
    """

    def __init__(self, pictures: SceneParsing) -> None:
        self.pictures = pictures

    def of(self, answers: Answers, batch: Batch) -> list[Pairs]:
        """Compare a batch's class maps with its pictures' annotations."""
        return [
            pairs(class_map, self.pictures.truth(index), self.pictures.preprocessing)
            for class_map, index in zip(answers["class_map"], batch.indices, strict=True)
        ]

    def values(self, found: list[Pairs]) -> dict[str, float]:
        """Return ``mean_iou`` and ``pixel_accuracy`` over all pictures together."""
        return shares(confusion(found, len(self.pictures.labels)))


def pairs(class_map: ClassMap, truth: ClassMap, preprocessing: Preprocessing) -> Pairs:
    """Count which true and answered classes meet in one picture.

    Args:
        class_map: [h, w] answered, at the network's input.
        truth: [height, width] of the picture; 255 counts for nothing.
        preprocessing: How the picture became the input.
    """
    answered = of_picture(class_map, truth.shape[::-1], preprocessing)
    counted = truth != IGNORED
    both = truth[counted].astype(np.intp) * (UNSEEN + 1) + answered[counted]
    pixels = np.bincount(both)
    met = np.flatnonzero(pixels)
    return Pairs(met // (UNSEEN + 1), met % (UNSEEN + 1), pixels[met])


def of_picture(
    class_map: ClassMap, size_px: tuple[int, ...], preprocessing: Preprocessing
) -> ClassMap:
    """Return a class map at the size of its picture.

    Args:
        class_map: [h, w] at the network's input.
        size_px: Width and height of the upright picture.
        preprocessing: How the picture became the input.

    Returns:
        [height, width]; 255 where the network saw nothing.
    """
    width, height = size_px
    rows, columns = View.of((width, height), preprocessing).cells()
    seen = class_map[rows.index[:, None], columns.index]
    return whole(seen, rows, columns, (height, width))


def confusion(found: list[Pairs], classes: int) -> npt.NDArray[np.int64]:
    """Add up what was found in all pictures.

    Returns:
        [classes, classes + 1] pixels by their true and their answered class, the last for none.

    Raises:
        PlanError: An answer is no class.
    """
    matrix = np.zeros((classes, classes + 1), np.int64)
    for true, answered, pixels in found:
        named = answered[answered != UNSEEN]
        if (highest := int(named.max(initial=0))) >= classes:
            raise PlanError(
                f"expected classes below {classes} in class_map, got {highest}. Choose the labels "
                "that the network was trained with."
            )
        places = np.where(answered == UNSEEN, classes, answered)
        np.add.at(matrix, (true, places), pixels)
    return matrix


def shares(matrix: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return ``mean_iou``, over the classes that occur in truth or answer, and ``pixel_accuracy``.

    Args:
        matrix: Of :func:`confusion`.

    Raises:
        DataError: Nothing is annotated.
    """
    if not matrix.any():
        raise DataError(
            "expected labelled pixels to score class maps on, found none: in ADE20K's layout 0 is "
            "unlabelled and classes begin at 1"
        )
    right = np.diagonal(matrix)
    union = matrix.sum(axis=1) + matrix[:, :-1].sum(axis=0) - right
    occurs = union > 0
    overlaps = right[occurs] / union[occurs]
    return {
        "mean_iou": float(overlaps.mean()),
        "pixel_accuracy": float(right.sum() / matrix.sum()),
    }
