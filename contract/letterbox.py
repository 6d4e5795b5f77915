"""Where a picture lies in a network's input, and so where a place in one is in the other.

Used by whoever draws boxes and masks: data readers on the way in, the service on the way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from contract.preprocess import Preprocessing

# ImageNet's mean colour in 8 bits: what is nothing to a network after normalisation.
COLOUR: Final = (124, 116, 104)


@dataclass(frozen=True)
class Placement:
    """Which part of a picture lies where in a network's input.

    Args:
        box: Left, top, right and bottom of that part, in pixels of the upright picture.
        size_px: Width and height that it has in the input, from its top left corner on. With the
            framing "letterbox", what lies beyond is empty.
    """

    box: tuple[float, float, float, float]
    size_px: tuple[int, int]


def placement(size_px: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Say where a picture lies in the input.

    Args:
        size_px: Width and height of the upright picture.
        preprocessing: How it becomes the input.
    """
    if preprocessing.framing == "letterbox":
        return Placement((0, 0, *size_px), scaled_size(size_px, preprocessing))
    box = _centre_box(size_px, preprocessing)
    return Placement(box, (preprocessing.width, preprocessing.height))


def scaled_size(size_px: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the width and height that a letterboxed picture has in the input.

    Args:
        size_px: Width and height of the upright picture.
        preprocessing: With the framing "letterbox".

    >>> from contract.preprocess import Preprocessing
    >>> scaled_size((640, 427), Preprocessing(320, 320, framing="letterbox"))
    (320, 214)
    """
    width, height = size_px
    scale = min(preprocessing.height / height, preprocessing.width / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


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
