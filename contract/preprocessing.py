"""The form in which a network reads pictures. Needs no Pillow: plans are built without it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

FRAMINGS: Final = ("crop", "letterbox")
INTERPOLATIONS: Final = ("bicubic", "bilinear", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of one network.

    With the framing "crop" the shorter side is scaled to ``shorter_side_px`` and the middle
    ``height`` x ``width`` pixels are cut out, as in the published evaluation of DeiT and Swin.
    With "letterbox" the whole picture is scaled until it just fits and lies at the top left of
    the input; the rest has the colour :data:`contract.letterbox.COLOUR`.

    Args:
        height: Rows of the network's input.
        width: Columns of the network's input.
        shorter_side_px: Length of the shorter side before the cut; at least the larger of the
            two above. 0 with "letterbox".
        interpolation: "bicubic", "bilinear" or "lanczos".
        framing: "crop" or "letterbox".
    """

    height: int
    width: int
    shorter_side_px: int = 0
    interpolation: str = "bicubic"
    framing: str = "crop"

    def __post_init__(self) -> None:
        """Refuse what no picture could satisfy."""
        _one_of("interpolation", self.interpolation, INTERPOLATIONS)
        _one_of("framing", self.framing, FRAMINGS)
        came = f"got {self.height}, {self.width} and {self.shorter_side_px}"
        if self.framing == "letterbox":
            expected = "1 <= height, width and shorter_side_px = 0 for a letterbox"
            fits = self.shorter_side_px == 0
        else:
            expected = "1 <= height, width <= shorter_side_px"
            fits = self.shorter_side_px >= max(self.height, self.width)
        if min(self.height, self.width) < 1 or not fits:
            raise ValueError(f"expected {expected}, {came}")


def _one_of(where: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{where} must be one of {', '.join(known)}, got {value!r}")
