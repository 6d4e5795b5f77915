"""COCO's compressed run lengths into a picture. Needs no NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from gpusq.errors import AnswerError

if TYPE_CHECKING:
    from PIL import Image

# Five bits a character: the lowest four or five hold the number, the sixth says that more come.
_BITS: Final = 5
_MORE: Final = 32
_SIGN: Final = 16
_ZERO: Final = ord("0")
# No picture has a run that is longer.
_MOST_BITS: Final = 40


def mask(counts: str, size: tuple[int, int]) -> Image.Image:
    """Return a grey picture, 255 where the mask is and 0 elsewhere.

    Args:
        counts: Lengths of the runs down the columns, outside first, in COCO's compressed text.
        size: Height and width.

    Raises:
        AnswerError: They are no run lengths, or do not fill the picture.
    """
    from PIL import Image  # noqa: PLC0415

    height, width = size
    lengths = list(_lengths(counts))
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise AnswerError(
            f"Expected run lengths of {width} x {height} pixels, got {sum(lengths)}. "
            "Does another version of the service answer?"
        )
    columns = b"".join((b"\0", b"\xff")[i % 2] * length for i, length in enumerate(lengths))
    # Read row by row, runs down the columns are the picture on its side.
    return Image.frombytes("L", (height, width), columns).transpose(Image.Transpose.TRANSPOSE)


def _lengths(counts: str) -> Iterator[int]:
    """Yield the numbers; from the fourth on, each is written as the difference to one before.

    Source: the format of ``rleFrString`` in cocoapi's maskApi.c.
    """
    before: tuple[int, ...] = ()
    number = shift = 0
    for character in counts:
        bits = ord(character) - _ZERO
        number |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if shift > _MOST_BITS:
            raise AnswerError(
                "Expected lengths of runs in a picture, got one of over a million million pixels. "
                "Does another version of the service answer?"
            )
        if bits & _MORE:
            continue
        if bits & _SIGN:
            number -= 1 << shift
        if len(before) > 2:
            number += before[-2]
        before = (*before[-2:], number)
        yield number
        number = shift = 0
