"""Annotated outlines as masks of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from compress.data.framing import Framing
from compress.errors import DataError


def rasterised(outline: Any, framing: Framing) -> npt.NDArray[np.uint8]:
    """Return one object's mask as a sample shows it.

    Polygons are moved and then drawn, so that they are as sharp as the sample; run lengths are
    drawn and then moved.

    Args:
        outline: Polygons, each an array of x, y, x, y and so on, or run lengths, in pixels of the
            picture.
        framing: Of the sample.

    Returns:
        [h, w] uint8, 1 where the object is.

    Raises:
        DataError: Run lengths that are damaged.
    """
    width, height = framing.input_px
    if isinstance(outline, dict):
        return framing.values(decoded(outline), 0)
    moved = [framing.points(polygon.reshape(-1, 2)).ravel().tolist() for polygon in outline]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, height, width)))
    # Polygons may reach beyond the picture, but nothing of it is there.
    columns, rows = framing.place.size_px
    drawn[rows:] = 0
    drawn[:, columns:] = 0
    return np.ascontiguousarray(drawn, dtype=np.uint8)


def decoded(run_lengths: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Return the mask [height, width] of run lengths, 1 where the object is.

    Raises:
        DataError: They are damaged.
    """
    height, width = run_lengths["size"]
    try:
        if isinstance(run_lengths["counts"], list):
            run_lengths = coco_mask.frPyObjects(run_lengths, height, width)
        return np.ascontiguousarray(coco_mask.decode(run_lengths), dtype=np.uint8)
    except (ValueError, TypeError) as error:
        raise DataError(f"an outline's run lengths are damaged: {error}") from error
