"""Scenes in ADE20K layout: pictures, and beside them one map of class numbers for each.

Maps are 8-bit PNG files of the pictures' names: 0 is unlabelled, 1 the first class, and so on; 255
is unlabelled too, as in many sets of this layout.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.framing import framed
from compress.data.listing import pictures_below
from compress.data.pictures import IGNORED, UNLABELLED, Pictures, Target
from compress.errors import DataError

if TYPE_CHECKING:
    from compress.data.framing import Pixels
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing

# One class index a pixel, as bytes or as palette entries.
_MODES = ("L", "P")
# Pillow raises these on damaged PNG files.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


class SceneParsing(Pictures):
    """Pictures with a class for each pixel.

    A target is a class map [h, w] int64 at the network's input, 255 where nothing is labelled or
    nothing of the picture is.

    Args:
        images: Folder of the pictures, at any depth.
        annotations: Folder of the maps, laid out likewise; None for pictures without.
        labels: The classes, in the order of their numbers.
        preprocessing: Of the network.
        augment: None evaluates.
        seed: Of crops and order.

    Raises:
        DataError: No picture, no folder of maps, or more classes than a map can tell apart.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path | None,
        labels: LabelSet,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(preprocessing, seed)
        if len(labels) >= IGNORED:
            raise DataError(f"a class map tells 254 classes apart at most, got {len(labels)}")
        if annotations is not None and not annotations.is_dir():
            raise DataError(f"expected a folder of class maps at {annotations}, found none")
        self.images, self.annotations = images, annotations
        self.labels, self.augment = labels, augment
        self.files = pictures_below(images, None)
        if annotations is not None and (shard := next((f for f in self.files if f.member), None)):
            raise DataError(
                f"expected pictures below {images}, found the shard {shard.path}. Unpack it: "
                "shards have no place for class maps."
            )

    def read(self, epoch: int, index: int) -> tuple[Pixels, Target]:
        """Return the pixels [h, w, 3] and the class map [h, w] of one picture; -1 without one."""
        pixels, framing = framed(
            self.files[index].read(), self.preprocessing, self.augment, self.draws(epoch, index)
        )
        if self.annotations is None:
            return pixels, UNLABELLED
        truth = self.truth(index)
        if truth.shape[::-1] != framing.size_px:
            width, height = framing.size_px
            raise DataError(
                f"expected a class map of the picture's size {width} x {height}, "
                f"{self._annotation(index)} has {truth.shape[1]} x {truth.shape[0]}"
            )
        return pixels, framing.values(truth, IGNORED).astype(np.int64)

    def truth(self, index: int) -> Pixels:
        """Return what is annotated in one picture.

        Returns:
            [height, width] of the picture: index of the class, 255 where nothing is labelled.

        Raises:
            DataError: The map is missing, damaged, of another kind, or names no class.
        """
        path = self._annotation(index)
        numbers = _class_numbers(path)
        if (highest := int(numbers.max(initial=0, where=numbers != IGNORED))) > len(self.labels):
            raise DataError(
                f"{path} has the class number {highest}, and there are {len(self.labels)} classes"
            )
        return np.where(numbers == 0, IGNORED, numbers - (numbers != IGNORED)).astype(np.uint8)

    def label_nothing(self) -> bool:
        """Say whether there are maps that can be read and no pixel is labelled in any of them.

        Looks no further than the first labelled pixel.
        """
        readable = False
        for index in range(len(self)):
            try:
                truth = self.truth(index)
            except DataError:
                # Whoever reads the picture itself learns why.
                continue
            if (truth != IGNORED).any():
                return False
            readable = True
        return readable

    def _annotation(self, index: int) -> Path:
        if self.annotations is None:
            raise DataError(f"the pictures below {self.images} were opened without class maps")
        inside = Path(self.files[index].path).relative_to(self.images)
        return (self.annotations / inside).with_suffix(".png")


def _class_numbers(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
            mode, numbers = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise DataError(f"expected its class map at {path}, found none") from error
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the class map {path}: {error}") from error
    if mode not in _MODES:
        raise DataError(
            f"expected 8-bit class numbers in {path}, got a PNG of mode {mode}. Write one number "
            "a pixel, without colours."
        )
    return numbers
