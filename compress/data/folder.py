"""Pictures on disk, and what training does to them.

Pictures are decoded by ``contract.preprocess``, the same code that serves, and only when they are
needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from compress.data.listing import pictures_below
from compress.errors import DataError
from contract import preprocess
from contract.errors import ImageError

if TYPE_CHECKING:
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing

_CROP_TRIES = 10
# Damaged pictures in a row, after which a training set is refused.
_TRIES = 100


@dataclass(frozen=True)
class Batch:
    """One step's pictures.

    Args:
        images: [b, h, w, 3] uint8, RGB.
        labels: [b] int64; -1 where the picture has none.
        skipped: Pictures that could not be decoded, with the reason.
        first: Place of its first picture in the whole batch of the step.
    """

    images: Tensor
    labels: Tensor
    skipped: list[tuple[str, str]] = field(default_factory=list)
    first: int = 0

    def pin_memory(self) -> Batch:
        """Move it to memory that a GPU reads without waiting; called by torch's DataLoader."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.skipped, self.first)


@dataclass(frozen=True)
class Share:
    """The part of each step's batch that one process computes, and in how many pieces.

    Args:
        rank: Of the process.
        processes: How many share a batch.
        pieces: That each computes one after the other.
    """

    rank: int = 0
    processes: int = 1
    pieces: int = 1

    def slices(self, size: int) -> list[slice]:
        """Divide a batch of ``size`` pictures; return the slices of this process.

        However many processes there are, the same number of pieces in all is the same pictures
        in each.
        """
        piece = size // (self.processes * self.pieces)
        firsts = [(index * self.processes + self.rank) * piece for index in range(self.pieces)]
        return [slice(first, first + piece) for first in firsts]


@dataclass(frozen=True)
class _Sample:
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    label: int


class ImageFolder(Dataset["_Sample | tuple[str, str]"]):
    """The pictures below one folder or several, or in the tar shards there.

    An item is asked for by (epoch, index): its random crop depends on these and the seed alone,
    so a resumed run sees the same pictures, whoever decodes them.

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
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        folders = [roots] if isinstance(roots, Path) else roots
        self.files = [stored for root in folders for stored in pictures_below(root, labels)]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> _Sample | tuple[str, str]:
        """Decode picture ``key = (epoch, index)``; a damaged one yields its name and the reason."""
        epoch, index = key
        stored = self.files[index]
        try:
            return _Sample(self._pixels(stored.read(), epoch, index), stored.label)
        except (ImageError, OSError) as error:
            return str(stored), str(error)

    def order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the indices of all pictures as an epoch of training shows them."""
        return np.random.default_rng((self.seed, epoch)).permutation(len(self))

    def _pixels(
        self, data: bytes, epoch: int, index: int
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        if self.augment is None:
            return preprocess.preprocess(data, self.preprocessing)
        rng = np.random.default_rng((self.seed, epoch, index))
        image = preprocess.decode(data)
        box = _random_box(image.size, self.augment, rng)
        size = (self.preprocessing.width, self.preprocessing.height)
        pixels = np.asarray(image.resize(size, preprocess.resampling(self.preprocessing), box=box))
        return pixels[:, ::-1] if self.augment.flip and rng.random() < 0.5 else pixels


class _Replacing(Dataset["list[_Sample | tuple[str, str]]"]):
    """Training pictures; for a damaged one, the next readable one of the epoch.

    So each piece of a batch is whole, however many pictures are damaged, and an epoch is the same
    whoever decodes it.
    """

    def __init__(self, images: ImageFolder) -> None:
        self.images = images

    def __getitem__(self, key: tuple[int, int]) -> list[_Sample | tuple[str, str]]:
        """Return what was found in place of ``key``: damaged pictures, at last a readable one."""
        found = [self.images[key]]
        if isinstance(found[0], _Sample):
            return found
        epoch, index = key
        order = self.images.order(epoch)
        place = int(np.flatnonzero(order == index)[0])
        for other in np.roll(order, -place)[1:_TRIES].tolist():
            found.append(self.images[epoch, other])
            if isinstance(found[-1], _Sample):
                break
        return found


class _EpochBatches(Sampler[list[tuple[int, int]]]):
    """One process's index batches of an epoch, in an order that the seed and the epoch decide."""

    def __init__(self, images: ImageFolder, batch_size: int, share: Share, start: int) -> None:
        self.epoch, self.first = divmod(start, steps_per_epoch(len(images), batch_size))
        self.order = images.order(self.epoch).tolist()
        self.batch_size, self.share = batch_size, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # A last partial batch is left out: its gradient would be noisier than the others.
        for start in range(self.first * self.batch_size, len(self.order), self.batch_size):
            indices = self.order[start : start + self.batch_size]
            if len(indices) == self.batch_size or start == 0:
                for part in self.share.slices(len(indices)):
                    yield [(self.epoch, index) for index in indices[part]]


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Return how many steps :func:`training_batches` yields an epoch; at least one."""
    return max(1, size // batch_size)


def training_batches(
    images: ImageFolder,
    batch_size: int,
    *,
    first_step: int = 0,
    workers: int = 0,
    share: Share | None = None,
) -> Iterator[list[Batch]]:
    """Yield shuffled steps without end, as they come from step ``first_step`` on.

    Each step is the pieces of this process's share of one batch.

    Raises:
        DataError: A hundred pictures in a row could not be decoded, or there are too few pictures.
    """
    share = share or Share()
    size = min(batch_size, len(images))
    if size % (share.processes * share.pieces):
        raise DataError(
            f"{share.processes} processes of {share.pieces} pieces cannot share a batch of {size} "
            f"pictures ({len(images)} are there). Choose a batch_size that they divide."
        )
    slices = share.slices(size)
    step = first_step
    while True:
        sampler = _EpochBatches(images, batch_size, share, step)
        loader = iter(
            DataLoader(
                _Replacing(images),
                batch_sampler=sampler,
                num_workers=workers,
                collate_fn=_collate_replaced,
                pin_memory=torch.cuda.is_available(),
            )
        )
        while pieces := list(itertools.islice(loader, share.pieces)):
            yield [_whole(piece, part) for piece, part in zip(pieces, slices, strict=True)]
            step += 1


def ordered_batches(
    images: ImageFolder, batch_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Yield every picture once, in order; with ``limit``, that many spread evenly over the set."""
    count = len(images) if limit is None else min(limit, len(images))
    picked = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
    return chosen_batches(images, batch_size, picked)


def chosen_batches(
    images: ImageFolder, batch_size: int, indices: Sequence[int], workers: int = 0
) -> Iterator[Batch]:
    """Yield the pictures of the given indices, in order."""
    keys = [(0, index) for index in indices]
    loader = DataLoader(
        images,
        batch_sampler=[keys[at : at + batch_size] for at in range(0, len(keys), batch_size)],
        num_workers=workers,
        collate_fn=_collate,
        # Of its own: a loader draws, which nobody else's random numbers shall notice.
        generator=torch.Generator(),
    )
    return iter(loader)


def _whole(piece: Batch, part: slice) -> Batch:
    if len(piece.labels) < part.stop - part.start:
        raise DataError(
            f"expected training pictures, got {len(piece.skipped)} that cannot be decoded, the "
            f"first being {': '.join(piece.skipped[0])}. Mend or remove them."
        )
    return Batch(piece.images, piece.labels, piece.skipped, part.start)


def _collate_replaced(items: list[list[_Sample | tuple[str, str]]]) -> Batch:
    return _collate(list(itertools.chain.from_iterable(items)))


def _collate(items: list[_Sample | tuple[str, str]]) -> Batch:
    samples = [item for item in items if isinstance(item, _Sample)]
    skipped = [item for item in items if not isinstance(item, _Sample)]
    if not samples:
        return Batch(torch.empty(0, 0, 0, 3, dtype=torch.uint8), torch.empty(0), skipped)
    images = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    return Batch(images, torch.tensor([sample.label for sample in samples]), skipped)


def _random_box(
    size_px: tuple[int, int], augment: Augment, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a crop by its share of the area and its aspect ratio.

    What sticks out of the picture is drawn again; where nothing fits, as with strips, the middle
    is taken, as large as the largest aspect ratio allows.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6.
    """
    width, height = size_px
    for _ in range(_CROP_TRIES):
        area = rng.uniform(*augment.crop_scale) * width * height
        aspect = np.exp(rng.uniform(-1, 1) * np.log(augment.crop_aspect))
        crop_width, crop_height = float(np.sqrt(area * aspect)), float(np.sqrt(area / aspect))
        # Half a pixel of grace: at full scale rounding alone may exceed the picture.
        if crop_width <= width + 0.5 and crop_height <= height + 0.5:
            break
    else:
        crop_width = min(width, height * augment.crop_aspect)
        crop_height = min(height, width * augment.crop_aspect)
        left, top = (width - crop_width) / 2, (height - crop_height) / 2
        return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = min(crop_width, width), min(crop_height, height)
    left = rng.uniform(0, width - crop_width)
    top = rng.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height
