"""Steps of training and of evaluation from any data set of pictures."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from compress.data.batch import Batch, collate
from compress.data.pictures import Pictures, Sample
from compress.errors import DataError

# In one batch where nothing is learnt: of 32 pictures of 256 x 256, of 2 of 800 x 1216.
_PIXELS_AT_ONCE = 32 * 256**2
# Damaged pictures in a row, after which a training set is refused.
_TRIES = 100


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


class _Replacing(Dataset["list[Sample | tuple[str, str]]"]):
    """Training pictures; for a damaged one, the next readable one of the epoch.

    So each piece of a batch is whole, however many pictures are damaged, and an epoch is the same
    whoever decodes it.
    """

    def __init__(self, images: Pictures) -> None:
        self.images = images

    def __getitem__(self, key: tuple[int, int]) -> list[Sample | tuple[str, str]]:
        """Return what was found in place of ``key``: damaged pictures, at last a readable one."""
        found = [self.images[key]]
        if isinstance(found[0], Sample):
            return found
        epoch, index = key
        order = self.images.order(epoch)
        place = int(np.flatnonzero(order == index)[0])
        for other in np.roll(order, -place)[1:_TRIES].tolist():
            found.append(self.images[epoch, other])
            if isinstance(found[-1], Sample):
                break
        return found


class _EpochBatches(Sampler[list[tuple[int, int]]]):
    """One process's index batches of an epoch, in an order that the seed and the epoch decide."""

    def __init__(self, images: Pictures, batch_size: int, share: Share, start: int) -> None:
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
    images: Pictures,
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


def at_once(images: Pictures, most: int = 32) -> int:
    """Return how many pictures to look at together where nothing is learnt; fewer of large ones."""
    size = images.preprocessing
    return max(1, min(most, _PIXELS_AT_ONCE // (size.height * size.width)))


def ordered_batches(images: Pictures, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Yield every picture once, in order; with ``limit``, that many spread evenly over the set."""
    count = len(images) if limit is None else min(limit, len(images))
    picked = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
    return chosen_batches(images, batch_size, picked)


def chosen_batches(
    images: Pictures, batch_size: int, indices: Sequence[int], workers: int = 0
) -> Iterator[Batch]:
    """Yield the pictures of the given indices, in order."""
    keys = [(0, index) for index in indices]
    loader = DataLoader(
        images,
        batch_sampler=[keys[at : at + batch_size] for at in range(0, len(keys), batch_size)],
        num_workers=workers,
        collate_fn=collate,
        # Of its own: a loader draws, which nobody else's random numbers shall notice.
        generator=torch.Generator(),
    )
    return iter(loader)


def _whole(piece: Batch, part: slice) -> Batch:
    if len(piece.images) < part.stop - part.start:
        skipped = dict(piece.skipped)
        name, reason = piece.skipped[0]
        raise DataError(
            f"expected training pictures, got {len(skipped)} in a row that cannot be used, the "
            f"first being {name}: {reason.rstrip('.')}. Mend or remove them."
        )
    return dataclasses.replace(piece, first=part.start)


def _collate_replaced(items: list[list[Sample | tuple[str, str]]]) -> Batch:
    return collate(list(itertools.chain.from_iterable(items)))
