"""Masks as COCO's run lengths: compressed text, and the same as pycocotools writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contract.paste import Region

# Five bits a character: the lowest four or five hold the number, the sixth says that more come.
_BITS: Final = 5
_MORE: Final = 32
_SIGN: Final = 16
_ZERO: Final = ord("0")


@dataclass(frozen=True)
class Rle:
    """One mask.

    Args:
        size: Height and width of the picture.
        counts: The lengths of its runs down the columns, outside first, in COCO's compressed text.
    """

    size: tuple[int, int]
    counts: str


def of_region(region: Region, size_px: tuple[int, int]) -> Rle:
    """Encode a mask that lies somewhere in a picture.

    Args:
        region: The mask; outside it nothing is set.
        size_px: Width and height of the picture.
    """
    height = size_px[1]
    padded = np.pad(region.mask, ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(padded, axis=0).T  # [columns, rows + 1]
    base = region.left_px * height + region.top_px
    begins, ends = (
        column * height + row + base for column, row in (np.nonzero(change == d) for d in (1, -1))
    )
    # A run that goes on in the next column is one run.
    first = np.setdiff1d(begins, ends, assume_unique=True)
    last = np.setdiff1d(ends, begins, assume_unique=True)
    return _of_runs(first, last, size_px)


def of_classes(class_map: npt.NDArray[np.uint8]) -> dict[int, Rle]:
    """Encode every class of a map, in one pass.

    Args:
        class_map: [height, width].
    """
    height, width = class_map.shape
    flat = class_map.ravel(order="F")
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(begins[1:], flat.size)
    classes = flat[begins]
    return {
        int(c): _of_runs(begins[classes == c], ends[classes == c], (width, height))
        for c in np.unique(classes)
    }


def _of_runs(
    begins: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], size_px: tuple[int, int]
) -> Rle:
    width, height = size_px
    edges = np.column_stack([begins, ends]).ravel()
    counts = np.diff(edges, prepend=0, append=width * height)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return Rle((height, width), _compressed(counts))


def _compressed(counts: npt.NDArray[np.intp]) -> str:
    """Write numbers as COCO does: from the fourth on, as the difference to the one before last.

    Source: the format of ``rleToString`` in cocoapi's maskApi.c.
    """
    left = counts.astype(np.int64)
    left[3:] = counts[3:] - counts[1:-2]
    characters, written = [], []
    going = np.ones(len(left), bool)
    while going.any():
        low = left & (_MORE - 1)
        left = left >> _BITS
        done = left == np.where(low & _SIGN, -1, 0)
        characters.append(low + np.where(done, 0, _MORE) + _ZERO)
        written.append(going)
        going = going & ~done
    text = np.column_stack(characters)[np.column_stack(written)]
    return bytes(text.astype(np.uint8)).decode("ascii")
