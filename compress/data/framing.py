"""How a picture becomes a sample, and how what was annotated in it moves along.

Held-out pictures are framed by ``contract.preprocess``, the same code that serves; training may
crop and mirror them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.crop import random_box
from contract import letterbox, preprocess

if TYPE_CHECKING:
    from compress.recipe import Augment
    from contract.preprocess import Preprocessing

Pixels = npt.NDArray[np.uint8]
# A box of which less than this is left was cut away: of its area, and of one pixel.
_LEAST = 0.25


@dataclass(frozen=True)
class Framing:
    """What a sample shows of a picture, and where.

    Args:
        size_px: Width and height of the upright picture.
        input_px: Width and height of the sample.
        place: Which part of the picture lies where in the sample.
        mirrored: Left and right of that part are swapped.
    """

    size_px: tuple[int, int]
    input_px: tuple[int, int]
    place: letterbox.Placement
    mirrored: bool = False

    def points(self, of_picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return where points of the picture lie in the sample, which some may lie beyond.

        Args:
            of_picture: [n, 2] x and y in pixels of the upright picture.
        """
        left, top, right, bottom = self.place.box
        width, height = self.place.size_px
        scale = np.array([width / (right - left), height / (bottom - top)])
        moved: npt.NDArray[np.float64] = (of_picture - np.array([left, top])) * scale
        if self.mirrored:
            moved[:, 0] = width - moved[:, 0]
        return moved

    def boxes(
        self, of_picture: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
        """Return the boxes that the sample shows enough of, cut to what it shows.

        A box of which less than a quarter is left, or less than a quarter of a pixel, is left
        out.

        Args:
            of_picture: [n, 4] left, top, right, bottom in pixels of the upright picture.

        Returns:
            [m, 4] in pixels of the sample, and which [m] of the given ones they are.
        """
        corners = self.points(of_picture.reshape(-1, 2)).reshape(-1, 2, 2)
        whole = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        cut = np.clip(whole, 0, np.array(self.place.size_px * 2))
        left_px = _areas(cut)
        kept = np.flatnonzero(left_px >= _LEAST * np.maximum(_areas(whole), 1))
        return cut[kept].astype(np.float32), kept

    def values(self, of_picture: Pixels, beyond: int) -> Pixels:
        """Return a map of classes or a mask as the sample shows it, each pixel the nearest.

        Args:
            of_picture: [height, width] of the upright picture.
            beyond: What it holds where the sample shows nothing of the picture.
        """
        resized = Image.fromarray(of_picture).resize(
            self.place.size_px, Image.Resampling.NEAREST, box=self.place.box
        )
        columns, rows = self.place.size_px
        shown = np.full(self.input_px[::-1], beyond, np.uint8)
        shown[:rows, :columns] = np.asarray(resized)
        return self.flipped(shown)

    def flipped(self, of_sample: Pixels) -> Pixels:
        """Swap left and right of what the sample shows, where it is mirrored.

        Args:
            of_sample: [h, w, ...].
        """
        if not self.mirrored:
            return of_sample
        columns = self.place.size_px[0]
        return np.concatenate([of_sample[:, :columns][:, ::-1], of_sample[:, columns:]], axis=1)


def framed(
    data: bytes,
    preprocessing: Preprocessing,
    augment: Augment | None,
    draws: np.random.Generator,
) -> tuple[Pixels, Framing]:
    """Decode one picture and frame it.

    Training fills the whole input with a random crop. Where a letterbox is not to be cropped
    (``crop_scale`` is 1), the whole picture is framed as in serving.

    Args:
        data: The file.
        preprocessing: Of the network.
        augment: None frames as in serving.
        draws: Decide crop and mirroring.

    Returns:
        [h, w, 3] uint8, and how they came about.

    Raises:
        ImageError: The picture is damaged, or too large.
    """
    input_px = (preprocessing.width, preprocessing.height)
    if augment is None or (preprocessing.framing == "letterbox" and min(augment.crop_scale) == 1):
        decoded = preprocess.decode_to_fit(data, preprocessing)
        pixels = preprocess.fit_decoded(decoded, preprocessing)
        size_px, place = decoded.size_px, letterbox.placement(decoded.size_px, preprocessing)
    else:
        image = preprocess.decode(data)
        size_px = image.size
        place = letterbox.Placement(random_box(size_px, augment, draws), input_px)
        filtered = preprocess.resampling(preprocessing)
        pixels = np.asarray(image.resize(input_px, filtered, box=place.box))
    mirrored = augment is not None and augment.flip and draws.random() < 0.5
    framing = Framing(size_px, input_px, place, mirrored)
    return framing.flipped(pixels), framing


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas
