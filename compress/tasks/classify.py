"""Image classification: its pictures, its labels, its metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress.data import digits
from compress.data.batch import Batch
from compress.data.folder import ImageFolder
from compress.evaluate import Metric, TopFive
from compress.parallel import Processes
from compress.tasks.task import Task

if TYPE_CHECKING:
    from compress.recipe import Augment, Recipe
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing


class Classification(Task):
    """Folders in ImageNet layout, or the scanned digits of scikit-learn."""

    def __init__(self, recipe: Recipe, processes: Processes | None = None) -> None:
        if recipe.data.source == "digits":
            with (processes or Processes()).main_first():
                digits.write(
                    recipe.data.train_folders[0], next(iter(recipe.data.evaluate.values()))
                )
        super().__init__(recipe, processes)

    def training_pictures(self, augment: Augment | None) -> ImageFolder:
        """Open the training folders."""
        data = self.recipe.data
        known = self.labels if data.labelled else None
        return ImageFolder(data.train_folders, known, self.preprocessing, augment, self.recipe.seed)

    @staticmethod
    def opened(root: Path, labels: LabelSet, preprocessing: Preprocessing) -> ImageFolder:
        """Open one labelled folder."""
        return ImageFolder(root, labels, preprocessing)

    @staticmethod
    def metric(_pictures: ImageFolder) -> Metric:
        """Return top-1 and top-5."""
        return TopFive()

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
        batch = batch.to(device)
        images = batch.images
        if share:
            images = blended(images, share, (self.recipe.seed, step), batch.first)
        if not self.recipe.data.labelled:
            return images, None
        return images, batch.tensor


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
