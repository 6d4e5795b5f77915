"""Pictures and their targets as one step takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress.data.pictures import Sample, Target

Targets = Tensor | dict[str, Tensor]
# What fills the rows behind a picture's last object; other fields are filled with zeros.
_PADDING = {"labels": -1}


@dataclass(frozen=True)
class Batch:
    """One step's pictures.

    Args:
        images: [b, h, w, 3] uint8, RGB.
        targets: [b] int64 classes; [b, h, w] int64 class maps; or objects, a dict of [b, n, ...],
            padded to the picture that has most, where ``labels`` are -1. [b] int64 of -1 where
            the pictures have none.
        skipped: Pictures that could not be read, with the reason.
        first: Place of its first picture in the whole batch of the step.
        indices: Of the pictures in their data set.
    """

    images: Tensor
    targets: Targets
    skipped: list[tuple[str, str]] = field(default_factory=list)
    first: int = 0
    indices: tuple[int, ...] = ()

    @property
    def tensor(self) -> Tensor:
        """The targets of a task that has one tensor of them: classes or class maps."""
        if isinstance(self.targets, Tensor):
            return self.targets
        raise TypeError(f"expected one tensor of targets, got {', '.join(self.targets)}")

    def pin_memory(self) -> Batch:
        """Move it to memory that a GPU reads without waiting; called by torch's DataLoader."""
        return self._moved(Tensor.pin_memory)

    def to(self, device: torch.device | None) -> Batch:
        """Move it to a device, without waiting for it where its memory is pinned."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        if isinstance(self.targets, Tensor):
            targets: Targets = move(self.targets)
        else:
            targets = {name: move(value) for name, value in self.targets.items()}
        return dataclasses.replace(self, images=move(self.images), targets=targets)


def collate(items: Sequence[Sample | tuple[str, str]]) -> Batch:
    """Make one batch of what a data set returned; without a readable picture it is empty."""
    samples = [item for item in items if isinstance(item, Sample)]
    skipped = [item for item in items if not isinstance(item, Sample)]
    if not samples:
        images = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
        return Batch(images, torch.empty(0, dtype=torch.int64), skipped)
    return Batch(
        torch.from_numpy(np.stack([sample.pixels for sample in samples])),
        _together([sample.target for sample in samples]),
        skipped,
        indices=tuple(sample.index for sample in samples),
    )


def _together(targets: list[Target]) -> Targets:
    objects = [target for target in targets if isinstance(target, dict)]
    if not objects:
        return torch.from_numpy(np.stack([np.asarray(target, np.int64) for target in targets]))
    return {
        name: torch.from_numpy(_padded([found[name] for found in objects], _PADDING.get(name, 0)))
        for name in objects[0]
    }


def _padded(rows: list[npt.NDArray[np.generic]], filler: int) -> npt.NDArray[np.generic]:
    longest = max(len(found) for found in rows)
    shape = (len(rows), longest, *rows[0].shape[1:])
    padded = np.full(shape, filler, dtype=rows[0].dtype)
    for place, found in zip(padded, rows, strict=True):
        place[: len(found)] = found
    return padded
