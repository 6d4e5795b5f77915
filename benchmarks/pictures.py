"""The pictures that are sent: photos of the size that ImageNet's have, as JPEG."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH_PX, HEIGHT_PX = 500, 375
_QUALITY = 96
_SUFFIXES = (".jpg", ".jpeg")


def photos(folder: Path | None, count: int) -> list[bytes]:
    """Return so many JPEG files.

    Args:
        folder: Whose files are sent, spread evenly over it; None for cuts of the two photos that
            come with scikit-learn, 500 x 375.
        count: How many.

    Raises:
        FileNotFoundError: There is no JPEG in the folder.
    """
    if folder is None:
        return _cuts(count)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise FileNotFoundError(f"expected JPEG files in {folder}, got none; name another folder")
    step = max(1, len(found) // count)
    return [path.read_bytes() for path in found[::step][:count]]


def described(pictures: list[bytes]) -> str:
    """Say how many there are and how large they are."""
    sizes = [Image.open(io.BytesIO(one)).size for one in pictures]
    width, height = (round(float(np.mean(side))) for side in zip(*sizes, strict=True))
    kilobytes = sum(map(len, pictures)) / len(pictures) / 1000
    return f"{len(pictures)} JPEG of {kilobytes:.0f} kB and {width} x {height} pixels on average"


def _cuts(count: int) -> list[bytes]:
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - needed here alone

    images: Any = load_sample_images().images
    found = []
    for number, whole in zip(range(count), itertools.cycle(images), strict=False):
        turn = number // len(images)
        left = (turn * 37) % (whole.shape[1] - WIDTH_PX + 1)
        top = (turn * 13) % (whole.shape[0] - HEIGHT_PX + 1)
        found.append(_jpeg(whole[top : top + HEIGHT_PX, left : left + WIDTH_PX]))
    return found


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
