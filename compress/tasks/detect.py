"""Detection of objects, with or without their masks: COCO's layout and metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.data.coco import CocoImages
from compress.data.folder import ImageFolder
from compress.data.pictures import Pictures
from compress.errors import DataError, RecipeError
from compress.evaluate import Metric
from compress.metrics.detection import AveragePrecision
from compress.networks import FAMILIES
from compress.tasks.task import Task

if TYPE_CHECKING:
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing

_PREFIX = "instances_"


class Detection(Task):
    """Annotations ``.../annotations/instances_NAME.json`` and pictures beside that folder."""

    def training_pictures(self, augment: Augment | None) -> Pictures:
        """Open the training annotations; without labels, any folders of pictures."""
        data, seed = self.recipe.data, self.recipe.seed
        if not data.labelled:
            return ImageFolder(data.train_folders, None, self.preprocessing, augment, seed)
        if len(data.train_folders) > 1:
            raise RecipeError(
                f"data.train: expected one file of annotations, got {len(data.train_folders)}"
            )
        (file,) = data.train_folders
        masks = "masks" in FAMILIES[self.recipe.network.family].wrap.outputs
        found = CocoImages(
            pictures_of(file), file, self.labels, self.preprocessing, augment, seed, masks=masks
        )
        if not any(len(one.labels) for one in found.annotated):
            raise DataError(
                f"expected objects to learn from in {file}, found none that can be trained on. "
                "Annotate some, or set data.labelled: false."
            )
        return found

    @staticmethod
    def opened(root: Path, labels: LabelSet, preprocessing: Preprocessing) -> CocoImages:
        """Open one file of annotations and the folder of its pictures."""
        return CocoImages(pictures_of(root), root, labels, preprocessing)

    @staticmethod
    def metric(pictures: CocoImages) -> Metric:
        """Return average precision of boxes, and of masks if the network has them."""
        return AveragePrecision(pictures)


def pictures_of(annotations: Path) -> Path:
    """Return the folder of the pictures that a file of annotations speaks of.

    Of ``ROOT/annotations/instances_NAME.json`` that is ``ROOT/NAME``, as COCO is unpacked, if it
    is there, otherwise ``ROOT/images``.

    Raises:
        RecipeError: Not such a file, or neither folder is there.
    """
    if annotations.suffix != ".json":
        raise RecipeError(
            f"expected COCO annotations such as annotations/instances_train.json, got {annotations}"
        )
    if not annotations.is_file():
        raise RecipeError(f"expected COCO annotations at {annotations}, found no such file")
    root = annotations.parent.parent
    named = root / annotations.stem.removeprefix(_PREFIX)
    for folder in (named, root / "images"):
        if folder.is_dir():
            return folder
    raise RecipeError(f"expected the pictures of {annotations} in {named} or in {root / 'images'}")
