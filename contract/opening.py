"""Open a picture: what its first bytes say, before any pixel is decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final

from PIL import Image

from contract import refusal

FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 50_000_000
# Pillow's decoders raise all of these on damaged files; each of them means just that.
DECODER_ERRORS: Final = (
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
JPEG: Final = ("JPEG", "MPO")
_ANY_PILLOW_MODULE: Final = r"PIL\."


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say.

    Args:
        size_px: Width and height as stored, which may be on its side.
        reducible: Whether it can be decoded at a fraction of its size.
    """

    size_px: tuple[int, int]
    reducible: bool


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read how large a picture is.

    Raises:
        ImageError: Not a picture, of another format, or too large.
    """
    image = open_picture(data, max_pixels)
    return Header(image.size, image.format in JPEG and not _is_progressive(image))


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
        ImageError: Not a picture, of another format, or too large.
    """
    _silence_pillow()
    image = _open(data, max_pixels)
    _check_size(image, max_pixels)
    return image


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
    except DECODER_ERRORS as error:
        raise refusal.unreadable(data, error) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    progressive = _is_progressive(image)
    # Pillow's draft mode, which saves most of the decoding time, does nothing for these.
    limit = min(max_pixels, MAX_PIXELS) // 2 if progressive else max_pixels
    width, height = image.size
    if width * height > limit:
        kind = f"{refusal.NAMES[image.format or '']} picture"
        came = f"{width} x {height} = {width * height:,}"
        raise refusal.too_many_pixels("progressive JPEG" if progressive else kind, limit, came)


def _is_progressive(image: Image.Image) -> bool:
    return image.format in JPEG and bool(image.info.get("progressive"))
