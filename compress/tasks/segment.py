"""Semantic segmentation: scenes in ADE20K layout, scored by mean IoU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.data.ade20k import SceneParsing
from compress.data.folder import ImageFolder
from compress.data.pictures import Pictures
from compress.errors import DataError, RecipeError
from compress.evaluate import Metric
from compress.metrics.segmentation import MeanIou
from compress.tasks.task import Task

if TYPE_CHECKING:
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing

_IMAGES, _ANNOTATIONS = "images", "annotations"


class Segmentation(Task):
    """Pictures below ``.../images/...`` and their class maps below ``.../annotations/...``."""

    def training_pictures(self, augment: Augment | None) -> Pictures:
        """Open the training folder; without labels, any folders of pictures."""
        data, seed = self.recipe.data, self.recipe.seed
        if not data.labelled:
            return ImageFolder(data.train_folders, None, self.preprocessing, augment, seed)
        if len(data.train_folders) > 1:
            raise RecipeError(
                f"data.train: expected one folder of labelled scenes, got {len(data.train_folders)}"
            )
        (root,) = data.train_folders
        maps = maps_of(root)
        found = SceneParsing(root, maps, self.labels, self.preprocessing, augment, seed)
        if found.label_nothing():
            raise DataError(
                f"expected labelled pixels to learn from in {maps}, found none: in ADE20K's layout "
                "0 is unlabelled and classes begin at 1. Label some, or set data.labelled: false."
            )
        return found

    @staticmethod
    def opened(root: Path, labels: LabelSet, preprocessing: Preprocessing) -> SceneParsing:
        """Open one folder of pictures and that of their class maps."""
        return SceneParsing(root, maps_of(root), labels, preprocessing)

    @staticmethod
    def metric(pictures: SceneParsing) -> Metric:
        """Return mean IoU and pixel accuracy."""
        return MeanIou(pictures)


def maps_of(images: Path) -> Path:
    """Return the folder of the class maps that belong to a folder of pictures.

    Raises:
        RecipeError: No part of the path is called "images".

    >>> maps_of(Path("ade/images/training")).as_posix()
    'ade/annotations/training'
    """
    parts = list(images.parts)
    if _IMAGES not in parts:
        raise RecipeError(
            f"expected a folder in ADE20K layout, such as {_IMAGES}/training beside "
            f"{_ANNOTATIONS}/training, got {images}"
        )
    parts[len(parts) - 1 - parts[::-1].index(_IMAGES)] = _ANNOTATIONS
    return Path(*parts)
