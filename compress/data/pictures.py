"""Any data set of pictures: what training, calibration and evaluation ask of it."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from compress.errors import DataError
from contract.errors import ImageError
from contract.preprocess import Preprocessing

if TYPE_CHECKING:
    from compress.data.listing import Stored

# The target of a picture without one, whatever the task.
UNLABELLED = -1
# In a class map, what counts for nothing.
IGNORED = 255
Target = int | npt.NDArray[np.generic] | dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Sample:
    """One picture as the network takes it, and what it shows.

    Args:
        pixels: [h, w, 3] uint8, RGB.
        target: A class; a class map [h, w] int64; or objects, a dict of arrays with one row each.
            -1 where the data set has none.
        index: Of the picture in its data set.
    """

    pixels: npt.NDArray[np.uint8]
    target: Target
    index: int


class Pictures(Dataset["Sample | tuple[str, str]"], abc.ABC):
    """Pictures with or without targets, read when they are asked for.

    An item is asked for by (epoch, index): what is drawn for it depends on these and the seed
    alone, so a resumed run sees the same pictures, whoever decodes them.

    Args:
        preprocessing: Of the network that they are for.
        seed: Of the order and of what is drawn.
    """

    def __init__(self, preprocessing: Preprocessing, seed: int = 0) -> None:
        self.preprocessing = preprocessing
        self.seed = seed
        self.files: Sequence[Stored] = ()
        # Parts of targets that cannot be used, by name, with the reason.
        self.dropped: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def name(self, index: int) -> str:
        """Name a picture as people look for it: its file, or the shard and the file in it."""
        return str(self.files[index])

    @abc.abstractmethod
    def read(self, epoch: int, index: int) -> tuple[npt.NDArray[np.uint8], Target]:
        """Return the pixels [h, w, 3] and the target of one picture.

        Raises:
            ImageError: The picture is damaged.
            DataError: Its target is missing, damaged, or does not fit it.
            OSError: A file is gone or cannot be read.
        """

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[str, str]:
        """Read picture ``key = (epoch, index)``; a damaged one yields its name and the reason."""
        epoch, index = key
        try:
            return Sample(*self.read(epoch, index), index)
        except (ImageError, DataError, OSError) as error:
            return self.name(index), str(error)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the indices of all pictures as an epoch of training shows them."""
        return np.random.default_rng((self.seed, epoch)).permutation(len(self))

    def draws(self, epoch: int, index: int) -> np.random.Generator:
        """Return what decides how training changes one picture."""
        return np.random.default_rng((self.seed, epoch, index))
