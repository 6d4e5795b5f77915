"""Segmentation: the class map of the network's input becomes that of the picture. NumPy, Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from contract.labels import LabelSet
from contract.view import UNSEEN, Cells, whole
from service.errors import Code, GatewayError, ModelError
from service.tasks import agreement, contours, rle
from service.tasks.contours import Polygon
from service.tasks.rle import Rle
from service.tasks.task import Asked, Outputs, Shapes, Task

Format = Literal["png", "rle", "polygons"]
OUTPUT: Final = "class_map"

ClassMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Options:
    """What a request may choose.

    Args:
        format: In which form the map comes.
    """

    format: Format = "png"


@dataclass(frozen=True)
class Area:
    """One class that a picture shows.

    Args:
        index: Place in the label set, and value in the map.
        label_id: Stable id of the class.
        label: Readable name.
        area_px: How many pixels of the upright picture show it.
        share: The same by the picture's pixels, 0 to 1.
        rle: Where they are, if asked for in this form.
        polygons: Where they are, if asked for in this form.
    """

    index: int
    label_id: str
    label: str
    area_px: int
    share: float
    rle: Rle | None = None
    polygons: list[Polygon] | None = None


@dataclass(frozen=True)
class Segmentation:
    """What each pixel of a picture shows.

    Args:
        classes: Those that occur, the largest first.
        unseen_px: How many pixels the network did not see; :data:`UNSEEN` in the map.
        png: The map at the picture's size, an 8-bit grey PNG, if asked for in this form.
    """

    classes: list[Area]
    unseen_px: int
    png: bytes | None


def require_outputs(outputs: Shapes, labels: LabelSet) -> None:
    """Check that a network's outputs are those of a segmenter with these labels.

    Raises:
        ModelError: No uint8 ``class_map`` [b, h, w], or more classes than it can name.
    """
    dtype, shape = outputs.get(OUTPUT, ("", ()))
    if dtype != "uint8" or len(shape) != 3 or len(labels) > UNSEEN:
        raise ModelError(
            f"the card has {len(labels)} labels to segment, so there must be at most {UNSEEN} and "
            f"the output {OUTPUT!r} must be uint8 [-1, h, w], got {dict(outputs)}"
        )


def predict(outputs: Outputs, asked: Asked[Options]) -> Segmentation:
    """Return what each pixel of one picture shows.

    Args:
        outputs: ``class_map`` [1, h, w] uint8.
        asked: The labels, the view and the form of the answer.

    Raises:
        GatewayError: A class that has no label, which only a broken network gives.
    """
    rows, columns = asked.view.cells()
    seen = outputs[OUTPUT][0][rows.index[:, None], columns.index]
    counts = _areas_px(seen, rows, columns)
    found = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    if (highest := int(found.max(initial=0))) >= len(asked.labels):
        raise GatewayError(
            Code.INTERNAL,
            f"The network gave the class {highest}, and there are {len(asked.labels)}.",
        )
    width, height = asked.view.size_px
    total, labels, form = width * height, asked.labels, asked.options.format
    spread = whole(seen, rows, columns, (height, width)) if form != "polygons" else seen
    runs = rle.of_classes(spread) if form == "rle" else {}
    classes = []
    for index in map(int, found):
        area_px = int(counts[index])
        polygons = _outlines(seen == index, rows, columns) if form == "polygons" else None
        names = (labels.ids[index], labels.names[index])
        classes.append(Area(index, *names, area_px, area_px / total, runs.get(index), polygons))
    return Segmentation(classes, total - int(counts.sum()), _png(spread) if form == "png" else None)


def _areas_px(seen: ClassMap, rows: Cells, columns: Cells) -> npt.NDArray[np.int64]:
    """Return the number of the picture's pixels of each value."""
    pixels = np.outer(np.diff(rows.edges_px), np.diff(columns.edges_px))
    return np.bincount(seen.ravel(), pixels.ravel(), UNSEEN + 1).astype(np.int64)


def _outlines(mask: npt.NDArray[np.bool_], rows: Cells, columns: Cells) -> list[Polygon]:
    """Trace among the cells, which are far fewer than the picture's pixels, and then scale."""
    across, down = columns.edges_px.tolist(), rows.edges_px.tolist()
    return [
        [(down if i % 2 else across)[at] for i, at in enumerate(polygon)]
        for polygon in contours.outlines(mask)
    ]


def _png(class_map: ClassMap) -> bytes:
    file = io.BytesIO()
    Image.fromarray(class_map).save(file, "PNG")
    return file.getvalue()


TASK: Final = Task("segment", require_outputs, predict, agreement.of_maps)
