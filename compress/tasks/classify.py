"""Image classification: its pictures, its labels, its metric."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress.data import digits
from compress.data.folder import (
    Batch,
    ImageFolder,
    Share,
    ordered_batches,
    steps_per_epoch,
    training_batches,
)
from compress.errors import DataError, RecipeError
from compress.evaluate import Score, Scorer, evaluate
from compress.parallel import Processes
from contract import labels
from contract.preprocess import Preprocessing

if TYPE_CHECKING:
    from compress.recipe import Recipe, Schedule

_CALIBRATION_BATCH = 32


class Classification:
    """Data and metric of one recipe.

    Args:
        recipe: Says where the pictures are.
        processes: That share each batch.

    Raises:
        DataError: A folder is missing, empty, or names no class.
        CardError: There is no label set of that name.
    """

    def __init__(self, recipe: Recipe, processes: Processes | None = None) -> None:
        data = recipe.data
        self.recipe = recipe
        self.processes = processes or Processes()
        # Pictures that were asked for outside of training steps and could not be decoded.
        self.skipped: dict[str, str] = {}
        self.preprocessing = Preprocessing(**recipe.input.model_dump())
        named = isinstance(data.labels, str)
        self.labels = labels.load(data.labels) if named else labels.inline(data.labels)  # type: ignore[arg-type]
        if data.source == "digits":
            with self.processes.main_first():
                digits.write(data.train_folders[0], next(iter(data.evaluate.values())))
        self.train = ImageFolder(
            data.train_folders,
            self.labels if data.labelled else None,
            self.preprocessing,
            data.augment,
            recipe.seed,
        )
        self.held_out = {
            name: ImageFolder(root, self.labels, self.preprocessing)
            for name, root in data.evaluate.items()
        }

    def steps_per_epoch(self, schedule: Schedule) -> int:
        """Return the number of batches in one pass over the training pictures."""
        return steps_per_epoch(len(self.train), schedule.batch_size)

    def batches(self, schedule: Schedule, first_step: int) -> Iterator[list[Batch]]:
        """Yield training steps without end, from ``first_step`` on: this process's part of them.

        Raises:
            RecipeError: The batch cannot be divided as the recipe says.
        """
        return training_batches(
            self.train,
            schedule.batch_size,
            first_step=first_step,
            workers=self.recipe.data.workers,
            share=self._share(schedule),
        )

    def _share(self, schedule: Schedule) -> Share:
        processes = self.processes
        each, left = divmod(schedule.batch_size, processes.count)
        at_once = min(schedule.micro_batch or each, max(1, each))
        if left or each % at_once:
            raise RecipeError(
                f"batch_size {schedule.batch_size} cannot be divided among {processes.count} "
                f"processes in pieces of {at_once}. Choose a multiple of their product."
            )
        share = Share(processes.rank, processes.count, each // at_once)
        size = min(schedule.batch_size, len(self.train))
        piece = size // (share.processes * share.pieces)
        if self.recipe.data.augment.mix and piece < size and piece % 2:
            raise RecipeError(
                f"augment.mix blends neighbours in pairs, which pieces of {piece} pictures cut. "
                "Choose an even micro_batch, or an even part of batch_size a process."
            )
        return share

    def training_views(self, count: int) -> list[Tensor]:
        """Return ``count`` training pictures as training sees them, as batches [b, h, w, 3]."""
        size = min(count, _CALIBRATION_BATCH, len(self.train))
        batches = training_batches(self.train, size)
        views = []
        for step, (batch,) in zip(range(math.ceil(count / size)), batches, strict=False):
            self.skipped.update(batch.skipped)
            views.append(self.inputs(batch, step)[0])
        return views

    def calibration(self, count: int) -> list[Tensor]:
        """Return ``count`` training pictures, unaugmented, as batches [b, h, w, 3] uint8.

        Raises:
            DataError: Not one of them could be decoded.
        """
        plain = ImageFolder(
            self.recipe.data.train_folders,
            self.labels if self.recipe.data.labelled else None,
            self.preprocessing,
        )
        batches = list(ordered_batches(plain, _CALIBRATION_BATCH, limit=count))
        for batch in batches:
            self.skipped.update(batch.skipped)
        readable = [batch.images for batch in batches if len(batch.images)]
        if not readable:
            roots = ", ".join(map(str, self.recipe.data.train_folders))
            raise DataError(f"none of {count} pictures below {roots} could be decoded")
        return readable

    def inputs(
        self, batch: Batch, step: int, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the pictures and labels of one training step, on a device.

        Returns:
            [b, h, w, 3] pictures, blended where the recipe says so, and [b] labels, or None
            where the teacher has to give them.
        """
        share = self.recipe.data.augment.mix
        # Bytes travel; blends are made where they are needed.
        images = batch.images.to(device, non_blocking=True)
        if share:
            images = blended(images, share, (self.recipe.seed, step), batch.first)
        if not self.recipe.data.labelled:
            return images, None
        return images, batch.labels.to(device, non_blocking=True)

    def evaluate(self, score: Scorer, what: str) -> dict[str, Score]:
        """Score a network on every held-out folder."""
        return {
            name: evaluate(
                score, images, f"{what} on {name}", self.processes, self.recipe.data.workers
            )
            for name, images in self.held_out.items()
        }


def blended(images: Tensor, share: float, seed: tuple[int, int], first: int = 0) -> Tensor:
    """Blend a share of the pictures with their neighbour, each with its own weight.

    Args:
        images: [b, h, w, 3] uint8; a part of a batch that begins at an even place gives the same
            as that part of the whole.
        share: Of the pictures that are blended.
        seed: Decides which and how much.
        first: Place of the first picture in the whole batch.

    Returns:
        [b, h, w, 3] float32 in 0..255.

    Source:
        Zhang et al., "mixup", ICLR 2018, arXiv:1710.09412, with a uniform weight as in Beyer et
        al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022.
    """
    generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
    drawn = torch.rand(first + len(images), 2, 1, 1, 1, generator=generator)[first:]
    weight = torch.where(drawn[:, 0] < share, drawn[:, 1], torch.ones(()))
    weight = weight.to(images.device, non_blocking=True)
    # Places 0 and 1, 2 and 3 and so on; a last one without a neighbour stays as it is.
    places = torch.arange(len(images), device=images.device)
    neighbours = (places ^ 1).clamp(max=len(images) - 1)
    pixels = images.float()
    return pixels * weight + pixels[neighbours] * (1 - weight)
