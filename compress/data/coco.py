"""Pictures with boxed objects in COCO layout: a folder of pictures and a file of annotations.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.data.framing import framed
from compress.data.instances import Annotated, read_instances
from compress.data.listing import Stored, pictures_below
from compress.data.masks import rasterised
from compress.data.pictures import UNLABELLED, Pictures, Target
from compress.errors import DataError

if TYPE_CHECKING:
    from compress.data.framing import Framing, Pixels
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing


class CocoImages(Pictures):
    """Pictures with a box, a class and perhaps a mask for each object.

    A target is a dict: ``boxes`` [n, 4] float32, left, top, right, bottom in pixels of the
    network's input; ``labels`` [n] int64; and, where masks are asked for, ``masks`` [n, h, w]
    uint8. Crowds are no part of it; :meth:`truth` has them, and all outlines.

    Args:
        images: Folder of the pictures.
        annotations: JSON file; None for pictures without, which may lie at any depth.
        labels: Categories are looked up in it by name.
        preprocessing: Of the network.
        augment: None evaluates.
        seed: Of crops and order.
        masks: Whether masks are part of the target.

    Raises:
        DataError: No picture, a damaged annotation file, or an unknown category.
    """

    def __init__(  # noqa: PLR0913 - a mask is the seventh thing to know
        self,
        images: Path,
        annotations: Path | None,
        labels: LabelSet,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: int = 0,
        *,
        masks: bool = False,
    ) -> None:
        super().__init__(preprocessing, seed)
        self.labels = labels
        self.augment, self.masks = augment, masks
        self.annotated: list[Annotated] = []
        if annotations is None:
            self.files = pictures_below(images, None)
            return
        if not images.is_dir():
            raise DataError(f"expected a folder of pictures at {images}, found none")
        found = read_instances(annotations, labels, outlines=masks)
        self.annotated, self.dropped = found.pictures, found.dropped
        self.files = [Stored(str(images / a.file_name), UNLABELLED) for a in found.pictures]

    def read(self, epoch: int, index: int) -> tuple[Pixels, Target]:
        """Return the pixels [h, w, 3] and the objects of one picture; -1 without annotations."""
        pixels, framing = framed(
            self.files[index].read(), self.preprocessing, self.augment, self.draws(epoch, index)
        )
        if not self.annotated:
            return pixels, UNLABELLED
        annotated = self.annotated[index]
        if annotated.size_px != framing.size_px:
            (width, height), (said_width, said_height) = framing.size_px, annotated.size_px
            raise DataError(
                f"its annotations are of a picture of {said_width} x {said_height}, it has "
                f"{width} x {height}"
            )
        return pixels, self._objects(annotated, framing)

    def truth(self, index: int) -> Annotated:
        """Return what is annotated in one picture, in its own pixels."""
        return self.annotated[index]

    def _objects(self, annotated: Annotated, framing: Framing) -> dict[str, npt.NDArray[Any]]:
        boxes, kept = framing.boxes(annotated.boxes)
        objects: dict[str, npt.NDArray[Any]] = {"boxes": boxes, "labels": annotated.labels[kept]}
        if self.masks:
            width, height = framing.input_px
            drawn = [rasterised(annotated.outlines[index], framing) for index in kept]
            objects["masks"] = np.array(drawn, np.uint8).reshape(-1, height, width)
        return objects
