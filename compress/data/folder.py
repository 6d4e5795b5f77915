"""Pictures in ImageNet layout, and what training does to them.

A folder a class, named by the id or name of the class. Pictures are decoded by
``contract.preprocess``, the same code that serves, and only when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from compress.errors import DataError
from contract import preprocess
from contract.errors import ImageError

if TYPE_CHECKING:
    from compress.recipe import Augment
    from contract.labels import LabelSet
    from contract.preprocess import Preprocessing

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
UNLABELLED = -1
_CROP_TRIES = 10


@dataclass(frozen=True)
class Batch:
    """One step's pictures.

    Args:
        images: [b, h, w, 3] uint8, RGB.
        labels: [b] int64; -1 where the picture has none.
        skipped: Pictures that could not be decoded, with the reason.
    """

    images: Tensor
    labels: Tensor
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Sample:
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    label: int


class ImageFolder(Dataset["_Sample | tuple[str, str]"]):
    """The pictures below one folder.

    An item is asked for by (epoch, index): its random crop depends on these and the seed alone,
    so a resumed run sees the same pictures, whoever decodes them.

    Args:
        root: The folder. Hidden files and files of other types are left out.
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
        root: Path,
        labels: LabelSet | None,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.files = _unlabelled(root) if labels is None else _labelled(root, labels)
        if not self.files:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DataError(f"expected pictures ({kinds}) below {root}, found none")

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> _Sample | tuple[str, str]:
        """Decode picture ``key = (epoch, index)``; a damaged one yields its name and the reason."""
        epoch, index = key
        path, label = self.files[index]
        try:
            return _Sample(self._pixels(path, epoch, index), label)
        except (ImageError, OSError) as error:
            return str(path), str(error)

    def _pixels(
        self, path: Path, epoch: int, index: int
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        data = path.read_bytes()
        if self.augment is None:
            return preprocess.preprocess(data, self.preprocessing)
        rng = np.random.default_rng((self.seed, epoch, index))
        image = preprocess.decode(data)
        box = _random_box(image.size, self.augment, rng)
        size = (self.preprocessing.width, self.preprocessing.height)
        pixels = np.asarray(image.resize(size, preprocess.resampling(self.preprocessing), box=box))
        return pixels[:, ::-1] if self.augment.flip and rng.random() < 0.5 else pixels


class _EpochBatches(Sampler[list[tuple[int, int]]]):
    """Index batches of one epoch in an order that depends on the seed and the epoch alone."""

    def __init__(self, size: int, batch_size: int, seed: int, epoch: int, first: int) -> None:
        self.order = np.random.default_rng((seed, epoch)).permutation(size).tolist()
        self.batch_size, self.epoch, self.first = batch_size, epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # A last partial batch is left out: its gradient would be noisier than the others.
        for start in range(self.first * self.batch_size, len(self.order), self.batch_size):
            indices = self.order[start : start + self.batch_size]
            if len(indices) == self.batch_size or start == 0:
                yield [(self.epoch, index) for index in indices]


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Return how many batches :func:`training_batches` yields an epoch; at least one."""
    return max(1, size // batch_size)


def training_batches(
    images: ImageFolder, batch_size: int, *, first_step: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Yield shuffled batches without end, as they come from step ``first_step`` on."""
    per_epoch = steps_per_epoch(len(images), batch_size)
    epoch, first = divmod(first_step, per_epoch)
    while True:
        sampler = _EpochBatches(len(images), batch_size, images.seed, epoch, first)
        for batch in DataLoader(
            images, batch_sampler=sampler, num_workers=workers, collate_fn=_collate
        ):
            if not len(batch.labels):
                raise DataError(
                    f"none of the {len(batch.skipped)} pictures of a training batch could be "
                    f"decoded; the first is {': '.join(batch.skipped[0])}"
                )
            yield batch
        epoch, first = epoch + 1, 0


def ordered_batches(
    images: ImageFolder, batch_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Yield every picture once, in order; with ``limit``, that many spread evenly over the set."""
    count = len(images) if limit is None else min(limit, len(images))
    picked = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
    for start in range(0, count, batch_size):
        yield _collate([images[0, index] for index in picked[start : start + batch_size]])


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


def _unlabelled(root: Path) -> list[tuple[Path, int]]:
    _must_be_folder(root)
    return [(path, UNLABELLED) for path in _pictures(root)]


def _labelled(root: Path, labels: LabelSet) -> list[tuple[Path, int]]:
    _must_be_folder(root)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry))
    classes = {folder: labels.index(folder.name) for folder in folders}
    if unknown := [folder.name for folder, label in classes.items() if label is None]:
        raise DataError(
            f"{len(unknown)} folders of {root} name no single class of the label set "
            f"{labels.name!r}: {', '.join(unknown[:5])}. Name them by class id or full class name."
        )
    return [
        (path, label)
        for folder, label in classes.items()
        if label is not None
        for path in _pictures(folder)
    ]


def _must_be_folder(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"expected a folder of pictures at {root}, found none")


def _pictures(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
