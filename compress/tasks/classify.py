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
    ordered_batches,
    steps_per_epoch,
    training_batches,
)
from compress.errors import DataError
from compress.evaluate import Score, Scorer, evaluate
from contract import labels
from contract.preprocess import Preprocessing

if TYPE_CHECKING:
    from compress.recipe import Recipe, Schedule

_CALIBRATION_BATCH = 32


class Classification:
    """Data and metric of one recipe.

    Args:
        recipe: Says where the pictures are.

    Raises:
        DataError: A folder is missing, empty, or names no class.
        CardError: There is no label set of that name.
    """

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        self.recipe = recipe
        self.preprocessing = Preprocessing(**recipe.input.model_dump())
        named = isinstance(data.labels, str)
        self.labels = labels.load(data.labels) if named else labels.inline(data.labels)  # type: ignore[arg-type]
        if data.source == "digits":
            digits.write(data.train, next(iter(data.evaluate.values())))
        self.train = ImageFolder(
            data.train,
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

    def batches(self, schedule: Schedule, first_step: int) -> Iterator[Batch]:
        """Yield training batches without end, from ``first_step`` on."""
        workers = self.recipe.data.workers
        return training_batches(
            self.train, schedule.batch_size, first_step=first_step, workers=workers
        )

    def training_views(self, count: int) -> list[Tensor]:
        """Return ``count`` training pictures as training sees them, as batches [b, h, w, 3]."""
        size = min(count, _CALIBRATION_BATCH, len(self.train))
        batches = training_batches(self.train, size)
        steps = range(math.ceil(count / size))
        return [self.inputs(batch, step)[0] for step, batch in zip(steps, batches, strict=False)]

    def calibration(self, count: int) -> list[Tensor]:
        """Return ``count`` training pictures, unaugmented, as batches [b, h, w, 3] uint8.

        Raises:
            DataError: Not one of them could be decoded.
        """
        plain = ImageFolder(
            self.recipe.data.train,
            self.labels if self.recipe.data.labelled else None,
            self.preprocessing,
        )
        batches = ordered_batches(plain, _CALIBRATION_BATCH, limit=count)
        readable = [batch.images for batch in batches if len(batch.images)]
        if not readable:
            root = self.recipe.data.train
            raise DataError(f"none of {count} pictures below {root} could be decoded")
        return readable

    def inputs(self, batch: Batch, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the pictures and labels of one training step.

        Returns:
            [b, h, w, 3] pictures, blended where the recipe says so, and [b] labels, or None
            where the teacher has to give them.
        """
        share = self.recipe.data.augment.mix
        images = blended(batch.images, share, (self.recipe.seed, step)) if share else batch.images
        return images, batch.labels if self.recipe.data.labelled else None

    def evaluate(self, score: Scorer, what: str) -> dict[str, Score]:
        """Score a network on every held-out folder."""
        return {
            name: evaluate(score, images, f"{what} on {name}")
            for name, images in self.held_out.items()
        }


def blended(images: Tensor, share: float, seed: tuple[int, int]) -> Tensor:
    """Blend a share of the pictures with another of the batch, each with its own weight.

    Args:
        images: [b, h, w, 3] uint8.
        share: Of the pictures that are blended.
        seed: Decides which and how much.

    Returns:
        [b, h, w, 3] float32 in 0..255.

    Source:
        Zhang et al., "mixup", ICLR 2018, arXiv:1710.09412, with a uniform weight as in Beyer et
        al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022.
    """
    generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
    weight = torch.rand(len(images), 1, 1, 1, generator=generator)
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < share
    weight = torch.where(chosen, weight, torch.ones(())).to(images.device)
    pixels = images.float()
    return pixels * weight + pixels.flip(0) * (1 - weight)
