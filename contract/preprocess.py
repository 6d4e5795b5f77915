"""From the bytes of a picture to the uint8 pixels a network reads.

The one implementation that training, evaluation, calibration and serving share, so that no
pixel differs between them. Scaling and normalisation are not here: they are the first nodes of
every exported graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from contract import letterbox, refusal
from contract.opening import DECODER_ERRORS, FORMATS, JPEG, MAX_PIXELS, Header, open_picture
from contract.preprocessing import Preprocessing

# Readers of pictures find their form here, too.
__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "Decoded",
    "Preprocessing",
    "decode",
    "decode_to_fit",
    "fit",
    "fit_decoded",
    "pixels_to_decode",
    "preprocess",
    "resampling",
]

_RESAMPLING: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE: Final = (5, 6, 7, 8)
# Where the left column, or the top row, of the upright picture is the last of the stored one.
_FROM_THE_RIGHT: Final = (2, 3, 6, 7)
_FROM_BELOW: Final = (3, 4, 7, 8)
# The fractions that a JPEG can be decoded at: one of so many pixels.
_REDUCTIONS: Final = (1, 2, 4, 8)
# Where the alpha channel is zero the colours are undefined; white is what viewers show.
_BACKDROP: Final = (255, 255, 255)


@dataclass(frozen=True)
class Decoded:
    """A picture, decoded whole or at a fraction of its size.

    Args:
        image: Upright, RGB.
        size_px: Width and height of the upright picture in its file.
        extent: Left, top, right and bottom of the picture in ``image``, whose outermost pixels
            may lie partly beyond it.
    """

    image: Image.Image
    size_px: tuple[int, int]
    extent: tuple[float, float, float, float]

    @property
    def pixels(self) -> float:
        """What decoding it cost, as :func:`pixels_to_decode` counts."""
        left, _, right, _ = self.extent
        return self.size_px[1] * (right - left)

    def box(
        self, of_picture: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        """Return where a box of the picture, in its own pixels, lies in :attr:`image`."""
        left, top, right, bottom = self.extent
        step_x, step_y = (right - left) / self.size_px[0], (bottom - top) / self.size_px[1]
        x0, y0, x1, y1 = of_picture
        return (
            left + x0 * step_x,
            top + y0 * step_y,
            min(left + x1 * step_x, self.image.width),
            min(top + y1 * step_y, self.image.height),
        )


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, shorter_side_px: int = 0) -> Image.Image:
    """Decode one picture into upright 8-bit RGB.

    EXIF orientation is applied, transparency is laid on white, 16-bit samples are scaled (not
    clipped), and CMYK and palette pictures are converted. Of an animation, the first frame.
    A damaged EXIF block does not spoil a good picture: it is then taken as upright. Safe to call
    from many threads. Pillow's own warnings are silenced in this process from the first call on:
    here they speak of the sender's file, and the outcome or the error says what matters.

    Args:
        data: A JPEG, PNG or WebP file.
        max_pixels: Largest width x height accepted; for progressive JPEG half of it, and never
            more than half of :data:`MAX_PIXELS`.
        shorter_side_px: When given, a JPEG at least twice as large may be decoded at half,
            a quarter or an eighth of its size, never below twice this length.

    Raises:
        ImageError: Not a picture, of another format, too large, or damaged.
    """
    return _decode(data, max_pixels, lambda size_px: 2 * shorter_side_px / min(size_px)).image


def decode_to_fit(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Decode one picture that is to be fitted, a large JPEG at a fraction of its size.

    That is never below twice the size which the input shows it at, unless the file is.

    Raises:
        ImageError: As for :func:`decode`.
    """
    return _decode(data, max_pixels, lambda size_px: 2 * _scale_at_most(size_px, preprocessing))


def pixels_to_decode(header: Header, preprocessing: Preprocessing) -> float:
    """Return what decoding a picture to fit costs, in pixels of one that is decoded whole.

    At a fraction every coefficient is still read, and only their transform is saved: time falls
    with the fraction, not with its square.
    """
    most = 2 * _scale_at_most(header.size_px, preprocessing)
    fits = (step for step in _REDUCTIONS if header.reducible and step * most <= 1)
    return math.prod(header.size_px) / max(fits, default=1)


def fit(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Scale a picture to the network's input, and cut it or lay it on its ground.

    Returns:
        [height, width, 3] uint8, RGB.
    """
    return fit_decoded(Decoded(image, image.size, (0, 0, *image.size)), preprocessing)


def fit_decoded(decoded: Decoded, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Scale what was decoded at a fraction to what the whole file would have shown.

    Returns:
        [height, width, 3] uint8, RGB.
    """
    place = letterbox.placement(decoded.size_px, preprocessing)
    # Only the cut is computed: scaling a 1 x 20000 strip whole would need gigabytes.
    resized = decoded.image.resize(
        place.size_px, resampling(preprocessing), box=decoded.box(place.box)
    )
    size = (preprocessing.width, preprocessing.height)
    if place.size_px == size:
        return np.asarray(resized, dtype=np.uint8)
    canvas = Image.new("RGB", size, letterbox.COLOUR)
    canvas.paste(resized, (0, 0))
    return np.asarray(canvas, dtype=np.uint8)


def preprocess(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Turn the bytes of one picture into one network input.

    Returns:
        [height, width, 3] uint8, RGB.

    Raises:
        ImageError: As for :func:`decode`.
    """
    return fit_decoded(decode_to_fit(data, preprocessing, max_pixels=max_pixels), preprocessing)


def resampling(preprocessing: Preprocessing) -> Image.Resampling:
    """Return the Pillow filter that a network was trained with."""
    return _RESAMPLING[preprocessing.interpolation]


def _decode(data: bytes, max_pixels: int, scale_of: Callable[[tuple[int, int]], float]) -> Decoded:
    """Decode a picture, a JPEG at no less than the given fraction of its size."""
    image = open_picture(data, max_pixels)
    width, height = stored_px = image.size
    if image.format in JPEG and (scale := scale_of(image.size)):
        # At twice the target the result differs by 0.3 of 255 from a full decode; at the target
        # itself by 1.5, which costs accuracy.
        image.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
    try:
        image.load()
        orientation = _orientation(image)
        picture = _to_rgb(_upright(image, orientation))
    except DECODER_ERRORS as error:
        raise refusal.damaged(data, "its pixels cannot be decoded", error) from error
    size_px = stored_px[::-1] if orientation in _ON_ITS_SIDE else stored_px
    return Decoded(picture, size_px, _extent(picture.size, size_px, orientation))


def _extent(
    decoded_px: tuple[int, int], size_px: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Return where a picture lies in what was decoded of it, both upright.

    At a fraction the last column and row may reach beyond the picture, and turning the picture
    upright may have made them the first.
    """
    width, height = decoded_px
    step = next(
        step
        for step in _REDUCTIONS
        if all(-(-px // step) == got for px, got in zip(size_px, decoded_px, strict=True))
    )
    inner_width, inner_height = (px / step for px in size_px)
    left = width - inner_width if orientation in _FROM_THE_RIGHT else 0
    top = height - inner_height if orientation in _FROM_BELOW else 0
    return left, top, left + inner_width, top + inner_height


def _scale_at_most(size_px: tuple[int, int], preprocessing: Preprocessing) -> float:
    """Return the most by which a picture is scaled, which may yet have to be turned."""
    if preprocessing.framing == "letterbox":
        return max(preprocessing.height, preprocessing.width) / max(size_px)
    return preprocessing.shorter_side_px / min(size_px)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_ERRORS:
        return 1
    # The tag may hold anything: text, a fraction, several numbers.
    return orientation if isinstance(orientation, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        picture = Image.new("RGB", rgba.size, _BACKDROP)
        picture.paste(rgba, mask=rgba)
        return picture
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # convert("RGB") clips 16-bit samples at 255, which turns nearly every pixel white.
    samples = np.asarray(image)
    # Samples / 257, rounded, in whole numbers and in place: a picture may have 50 million.
    scaled = samples.astype(np.uint32)
    scaled *= 255
    scaled += 32_895
    scaled >>= 16
    grey = scaled.astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[samples == transparent] = _BACKDROP[0]
    return Image.fromarray(grey).convert("RGB")
