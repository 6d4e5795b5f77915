"""What every task shares: which pictures make a training step, a calibration, a score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compress.answers import Asked
from compress.criteria.criterion import Raw
from compress.data.batch import Batch
from compress.data.loading import Share, at_once, ordered_batches, steps_per_epoch, training_batches
from compress.data.pictures import Pictures
from compress.data.plain import PlainPictures
from compress.errors import DataError, RecipeError
from compress.evaluate import Metric, Score, evaluate
from compress.parallel import Processes
from contract import labels
from contract.preprocess import Preprocessing

if TYPE_CHECKING:
    from compress.recipe import Augment, Recipe, Schedule
    from contract.labels import LabelSet


class Task(ABC):
    """Data and metric of one recipe.

    Args:
        recipe: Says where the pictures are.
        processes: That share each batch.

    Raises:
        DataError: Pictures or annotations are missing, or name no class.
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
        self.train = self.training_pictures(data.augment)
        self.held_out = {
            name: self.opened(root, self.labels, self.preprocessing)
            for name, root in data.evaluate.items()
        }

    @abstractmethod
    def training_pictures(self, augment: Augment | None) -> Pictures:
        """Open the training pictures, with labels where the recipe has them."""

    @staticmethod
    @abstractmethod
    def opened(root: Path, labels: LabelSet, preprocessing: Preprocessing) -> Pictures:
        """Open labelled pictures to score a network on.

        Args:
            root: As recipes name them for this task.
            labels: The classes that the network tells apart.
            preprocessing: How it reads pictures.
        """

    @staticmethod
    @abstractmethod
    def metric(pictures: Any) -> Metric:
        """Return what scores a network on pictures that :meth:`opened` returned."""

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
        size = min(count, at_once(self.train), len(self.train))
        batches = training_batches(self.train, size)
        views = []
        for step, (batch,) in zip(range(math.ceil(count / size)), batches, strict=False):
            self.skipped.update(batch.skipped)
            views.append(self.inputs(batch, step)[0])
        return views

    def calibration(self, count: int) -> list[Tensor]:
        """Return ``count`` training pictures, unaugmented, as batches [b, h, w, 3] uint8.

        What is annotated in them is not read.

        Raises:
            DataError: Not one of them can be read; names the first.
        """
        plain = PlainPictures(self.train.files, self.preprocessing)
        batches = list(ordered_batches(plain, at_once(plain), limit=count))
        for batch in batches:
            self.skipped.update(batch.skipped)
        readable = [batch.images for batch in batches if len(batch.images)]
        if not readable:
            name, reason = batches[0].skipped[0]
            raise DataError(
                f"none of {count} pictures to calibrate with can be read. The first is {name}: "
                f"{reason}"
            )
        return readable

    def inputs(
        self, batch: Batch, _step: int, device: torch.device | None = None
    ) -> tuple[Tensor, Raw | None]:
        """Return the pictures and targets of one training step, on a device.

        Returns:
            [b, h, w, 3] pictures, and what the task's criterion takes as labels, or None where
            the teacher has to give them.
        """
        batch = batch.to(device)
        return batch.images, batch.targets if self.recipe.data.labelled else None

    def evaluate(self, ask: Asked, what: str) -> dict[str, Score]:
        """Score a network on every held-out set."""
        workers = self.recipe.data.workers
        return {
            name: evaluate(
                ask, pictures, self.metric(pictures), f"{what} on {name}", self.processes, workers
            )
            for name, pictures in self.held_out.items()
        }
