"""What users have of a picture, as the bytes of a file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from gpusq.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image


class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self) -> Any:
        """Return what is left of it."""
        ...


Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Image.Image"
)
_ACCEPTED: Final = "a path, bytes, a file opened in binary mode, or a Pillow image"
# What PNG holds without loss. Whatever else an image may be is sent as RGB.
_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def encoded(picture: Picture) -> bytes:
    """Return the bytes of a picture's file.

    A path, bytes or a file is sent as it is. A Pillow image is sent as PNG, just as its pixels
    are: without the orientation that its file may have had, so that boxes are those of the image.

    Raises:
        PictureError: It cannot be read, or is nothing of that.
    """
    if isinstance(picture, str | os.PathLike):
        return _file(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if hasattr(picture, "read"):
        return _rest(picture)
    return _image(picture)


def media_type(data: bytes) -> str:
    """Return what a file says it is by its first bytes; the service looks by itself.

    >>> media_type(b"GIF89a")
    'application/octet-stream'
    """
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError(f"{path} cannot be read: {reason}. Name another file.") from error


def _rest(file: Readable) -> bytes:
    data = file.read()
    if not isinstance(data, bytes):
        raise PictureError(
            f"Expected a file that gives bytes, got {type(data).__name__}. Open it as 'rb'."
        )
    return data


def _image(image: object) -> bytes:
    from PIL import Image  # noqa: PLC0415

    if not isinstance(image, Image.Image):
        raise PictureError(f"Expected {_ACCEPTED}; got {type(image).__name__}.")
    png = io.BytesIO()
    try:
        kept = image if image.mode in _PNG_MODES else image.convert("RGB")
        kept.save(png, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise PictureError(f"The Pillow image cannot be written as PNG: {error}.") from error
    return png.getvalue()
