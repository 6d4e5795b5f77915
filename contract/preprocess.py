"""From the bytes of a picture to the uint8 pixels a network reads.

The one implementation that training, evaluation, calibration and serving share, so that no
pixel differs between them. Scaling and normalisation are not here: they are the first nodes of
every exported graph.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from contract import refusal

FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 50_000_000
_RESAMPLING: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
# Pillow's decoders raise all of these on damaged files; each of them means just that.
_DECODER_ERRORS: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
# MPO is Pillow's name for a JPEG with more pictures behind the first.
_JPEG: Final = ("JPEG", "MPO")
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where the alpha channel is zero the colours are undefined; white is what viewers show.
_BACKDROP: Final = (255, 255, 255)
_ANY_PILLOW_MODULE: Final = r"PIL\."


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of one network.

    The shorter side is scaled to ``shorter_side_px`` and the middle ``height`` x ``width``
    pixels are cut out, as in the published evaluation of DeiT and Swin.

    Args:
        height: Rows of the network's input.
        width: Columns of the network's input.
        shorter_side_px: Length of the shorter side before the cut; at least the larger of the
            two above.
        interpolation: "bicubic", "bilinear" or "lanczos".
    """

    height: int
    width: int
    shorter_side_px: int
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Refuse what no picture could satisfy."""
        if min(self.height, self.width) < 1 or self.shorter_side_px < max(self.height, self.width):
            raise ValueError(
                f"expected 1 <= height, width <= shorter_side_px, got {self.height}, "
                f"{self.width} and {self.shorter_side_px}"
            )
        if self.interpolation not in _RESAMPLING:
            known = ", ".join(_RESAMPLING)
            raise ValueError(f"interpolation must be one of {known}, got {self.interpolation!r}")


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
    _silence_pillow()
    image = _open(data, max_pixels)
    _check_size(image, max_pixels)
    if shorter_side_px and image.format in _JPEG:
        _draft(image, 2 * shorter_side_px)
    try:
        image.load()
        return _to_rgb(_upright(image))
    except _DECODER_ERRORS as error:
        raise refusal.damaged(data, "its pixels cannot be decoded", error) from error


def fit(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Scale and cut a decoded picture to the network's input.

    Returns:
        [height, width, 3] uint8, RGB.
    """
    box = _centre_box(image.size, preprocessing)
    size = (preprocessing.width, preprocessing.height)
    # Only the cut is computed: scaling a 1 x 20000 strip whole would need gigabytes.
    resized = image.resize(size, resampling(preprocessing), box=box)
    return np.asarray(resized, dtype=np.uint8)


def preprocess(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Turn the bytes of one picture into one network input.

    Returns:
        [height, width, 3] uint8, RGB.

    Raises:
        ImageError: As for :func:`decode`.
    """
    image = decode(data, max_pixels=max_pixels, shorter_side_px=preprocessing.shorter_side_px)
    return fit(image, preprocessing)


def resampling(preprocessing: Preprocessing) -> Image.Resampling:
    """Return the Pillow filter that a network was trained with."""
    return _RESAMPLING[preprocessing.interpolation]


def _silence_pillow() -> None:
    # warnings.catch_warnings is not safe in threads, and pictures are decoded in a pool of them.
    # Looked for at each call because test runners and catch_warnings elsewhere restore the list.
    first = warnings.filters[0] if warnings.filters else None
    ours = ("ignore", None, Warning, re.compile(_ANY_PILLOW_MODULE), 0)
    if first != ours:
        warnings.filterwarnings("ignore", module=_ANY_PILLOW_MODULE)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise refusal.bomb(data, max_pixels, error) from error
    except _DECODER_ERRORS as error:
        raise refusal.unreadable(data, error) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    progressive = image.format in _JPEG and bool(image.info.get("progressive"))
    # Pillow's draft mode, which saves most of the decoding time, does nothing for these.
    limit = min(max_pixels, MAX_PIXELS) // 2 if progressive else max_pixels
    width, height = image.size
    if width * height > limit:
        kind = f"{refusal.NAMES[image.format or '']} picture"
        came = f"{width} x {height} = {width * height:,}"
        raise refusal.too_many_pixels("progressive JPEG" if progressive else kind, limit, came)


def _draft(image: Image.Image, at_least_px: int) -> None:
    # At twice the target the result differs by 0.3 of 255 from a full decode; at the target
    # itself by 1.5, which costs accuracy.
    scale = at_least_px / min(image.size)
    width, height = image.size
    image.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODER_ERRORS:
        return image
    # The tag may hold anything: text, a fraction, several numbers.
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
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


def _centre_box(
    size_px: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the cut, in pixels of the picture before scaling."""
    width, height = size_px
    shorter_px, target_px = min(size_px), preprocessing.shorter_side_px
    # The published evaluation cuts off the fraction of the longer side, and rounds the margins.
    scaled_width, scaled_height = (target_px * side // shorter_px for side in size_px)
    left = round((scaled_width - preprocessing.width) / 2)
    top = round((scaled_height - preprocessing.height) / 2)
    step_x, step_y = width / scaled_width, height / scaled_height
    return (
        left * step_x,
        top * step_y,
        min((left + preprocessing.width) * step_x, width),
        min((top + preprocessing.height) * step_y, height),
    )
