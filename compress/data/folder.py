"""Pictures on disk with one class each: folders in ImageNet layout, and tar shards of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compress.data.framing import framed
from compress.data.listing import pictures_below
from compress.data.pictures import Pictures

if TYPE_CHECKING:
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing


class ImageFolder(Pictures):
    """The pictures below one folder or several, or in the tar shards there.

    Args:
        roots: The folder or folders. Hidden files and files of other types are left out.
        labels: The label set that folder names refer to; None for pictures without labels,
            which may lie at any depth.
        preprocessing: Of the network.
        augment: None evaluates: the middle of each picture.
        seed: Of the crops.

    Raises:
        DataError: No picture, or a folder whose name is no class of the label set.
    """

    def __init__(
        self,
        roots: Path | Sequence[Path],
        labels: LabelSet | None,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(preprocessing, seed)
        self.augment = augment
        folders = [roots] if isinstance(roots, Path) else roots
        self.files = [stored for root in folders for stored in pictures_below(root, labels)]

    def read(self, epoch: int, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Return the pixels [h, w, 3] and the class of one picture."""
        stored = self.files[index]
        pixels, _ = framed(
            stored.read(), self.preprocessing, self.augment, self.draws(epoch, index)
        )
        return pixels, stored.label
