"""What of a picture a network saw: from places in its input back to the picture's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contract.letterbox import Placement, placement
from contract.preprocess import Preprocessing

ClassMap = npt.NDArray[np.uint8]
# In a class map, what the network did not see. A label set has at most 255 classes.
UNSEEN: Final = 255


@dataclass(frozen=True)
class Cells:
    """Which lines of an input the lines of a picture show, along one axis.

    Args:
        index: [n] lines of the input, each the nearest to one or more of the picture.
        edges_px: [n + 1] where each begins in the picture, and where the last one ends; empty
            where the network saw nothing of it.
    """

    index: npt.NDArray[np.intp]
    edges_px: npt.NDArray[np.intp]


@dataclass(frozen=True)
class View:
    """One upright picture, and where it lies in the input of a network.

    Args:
        size_px: Width and height of the picture.
        input_px: Width and height of the input.
        place: Which part of the picture lies where in the input.
    """

    size_px: tuple[int, int]
    input_px: tuple[int, int]
    place: Placement

    @classmethod
    def of(cls, size_px: tuple[int, int], preprocessing: Preprocessing) -> View:
        """Return the view that a network has of a picture.

        Args:
            size_px: Width and height of the upright picture.
            preprocessing: What the network reads.
        """
        input_px = (preprocessing.width, preprocessing.height)
        return cls(size_px, input_px, placement(size_px, preprocessing))

    def boxes(self, of_input: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return boxes in pixels of the picture, which they may reach beyond.

        Args:
            of_input: [n, 4] left, top, right, bottom, 0 to 1 of the input.
        """
        left, top, right, bottom = self.place.box
        step_x = (right - left) / self.place.size_px[0]
        step_y = (bottom - top) / self.place.size_px[1]
        width, height = self.input_px
        scale = np.array([width * step_x, height * step_y] * 2)
        moved: npt.NDArray[np.float64] = of_input * scale + np.array([left, top] * 2)
        return moved

    def clipped(self, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the part of each box that lies in the picture; empty ones have no area."""
        return np.clip(boxes, 0, np.array(self.size_px * 2))

    def cells(self) -> tuple[Cells, Cells]:
        """Return the rows of the input that are nearest to rows of the picture, and so columns."""
        left, top, right, bottom = self.place.box
        columns, rows = self.place.size_px
        return (
            _cells(self.size_px[1], (top, bottom), rows),
            _cells(self.size_px[0], (left, right), columns),
        )


def whole(seen: ClassMap, rows: Cells, columns: Cells, shape: tuple[int, int]) -> ClassMap:
    """Return a class map at the size of the picture, each pixel as the nearest one that was seen.

    Args:
        seen: The map's rows and columns that :meth:`View.cells` names.
        rows: Of them.
        columns: Of them.
        shape: Height and width of the picture.

    Returns:
        [height, width], :data:`UNSEEN` where the network saw nothing.
    """
    found = np.full(shape, UNSEEN, np.uint8)
    if seen.size:
        tall = np.repeat(seen, np.diff(rows.edges_px), axis=0)
        (top, bottom), (left, right) = rows.edges_px[[0, -1]], columns.edges_px[[0, -1]]
        found[top:bottom, left:right] = np.repeat(tall, np.diff(columns.edges_px), axis=1)
    return found


def _cells(length_px: int, seen: tuple[float, float], input_px: int) -> Cells:
    begin, end = seen
    centres = np.arange(length_px) + 0.5
    pixels = np.flatnonzero((centres >= begin) & (centres <= end))
    # Multiplied first: with whole numbers, a quotient that falls between two lines is exact.
    found = ((centres[pixels] - begin) * input_px / (end - begin)).astype(np.intp)
    index, first = np.unique(np.minimum(found, input_px - 1), return_index=True)
    return Cells(index, np.append(pixels[first], pixels[-1:] + 1))
