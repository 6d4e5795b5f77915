"""Pictures as a served network sees them, without what they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.data.framing import framed
from compress.data.pictures import UNLABELLED, Pictures

if TYPE_CHECKING:
    from compress.data.framing import Pixels
    from compress.data.listing import Stored
    from contract.preprocess import Preprocessing


class PlainPictures(Pictures):
    """The pictures of another data set alone: no annotation of theirs is read.

    Args:
        files: Where they lie.
        preprocessing: Of the network.
    """

    def __init__(self, files: Sequence[Stored], preprocessing: Preprocessing) -> None:
        super().__init__(preprocessing)
        self.files = files

    def read(self, epoch: int, index: int) -> tuple[Pixels, int]:
        """Return the pixels [h, w, 3] of one picture, and -1."""
        data, draws = self.files[index].read(), self.draws(epoch, index)
        pixels, _ = framed(data, self.preprocessing, None, draws)
        return pixels, UNLABELLED
