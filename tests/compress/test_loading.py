import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from compress.data.batch import Batch
from compress.data.folder import ImageFolder
from compress.data.loading import Share, at_once, chosen_batches, ordered_batches, training_batches
from compress.data.pictures import Pictures, Target
from compress.errors import DataError
from compress.recipe import Augment
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import tiny

Read = tuple[npt.NDArray[np.uint8], Target]


class _Objects(Pictures):
    """Grey pictures of their index; as many objects in each as the index says."""

    damaged: tuple[int, ...] = ()

    def __init__(self, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(preprocessing or Preprocessing(2, 3, framing="letterbox"))

    def __len__(self) -> int:
        return 5

    def name(self, index: int) -> str:
        return f"picture {index}"

    def read(self, epoch: int, index: int) -> Read:
        del epoch
        if index in self.damaged:
            raise DataError("torn")
        pixels = np.full((2, 3, 3), index, np.uint8)
        boxes = np.full((index, 4), index + 0.5, np.float32)
        masks = np.ones((index, 2, 3), np.uint8)
        return pixels, {"boxes": boxes, "labels": np.arange(index), "masks": masks}


class _Maps(_Objects):
    def read(self, epoch: int, index: int) -> Read:
        pixels, _ = super().read(epoch, index)
        return pixels, np.full((2, 3), index)


class _Unlabelled(_Objects):
    def read(self, epoch: int, index: int) -> Read:
        return super().read(epoch, index)[0], -1


def test_classification_batches_are_those_of_a_plain_loop(tmp_path):
    root = tiny.write_pictures(tmp_path / "pictures", each=5)
    augment = Augment(crop_scale=(0.3, 0.5), crop_aspect=1.5, flip=True)
    known = labels.inline(list(tiny.CLASSES))
    images = ImageFolder(root, known, Preprocessing(8, 8, 8), augment, seed=3)

    found = itertools.islice(training_batches(images, 4, first_step=2), 5)

    files = sorted(root.rglob("*.png"))
    # Three steps an epoch: the last of epoch 0, all of 1, the first of 2.
    for (batch,), (epoch, step) in zip(
        found, [(0, 2), (1, 0), (1, 1), (1, 2), (2, 0)], strict=True
    ):
        chosen = np.random.default_rng((3, epoch)).permutation(15)[4 * step : 4 * step + 4]
        wanted = [_cropped(files[index], (3, epoch, index)) for index in chosen]
        assert np.array_equal(batch.images, np.stack(wanted))
        names = [files[index].parent.name for index in chosen]
        assert batch.targets.tolist() == [tiny.CLASSES.index(name) for name in names]
        assert batch.targets.dtype == torch.int64
        assert batch.indices == tuple(chosen)


def _cropped(path: Path, seed: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    while True:
        area, aspect = rng.uniform(0.3, 0.5) * 100, 1.5 ** rng.uniform(-1, 1)
        width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if max(width, height) <= 10.5:
            break
    left, top = rng.uniform(0, 10 - width), rng.uniform(0, 10 - height)
    box = (left, top, left + width, top + height)
    with Image.open(path) as image:
        pixels = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def test_objects_are_padded_to_the_picture_that_has_most():
    (batch,) = ordered_batches(_Objects(), 8)

    assert batch.targets["labels"].tolist() == [
        [-1, -1, -1, -1],
        [0, -1, -1, -1],
        [0, 1, -1, -1],
        [0, 1, 2, -1],
        [0, 1, 2, 3],
    ]
    assert batch.targets["boxes"].shape == (5, 4, 4)
    assert batch.targets["boxes"].dtype == torch.float32
    assert batch.targets["masks"].dtype == torch.uint8
    there = batch.targets["labels"] >= 0
    for name, one in (
        ("boxes", 4 * (0 * 0.5 + 1 * 1.5 + 2 * 2.5 + 3 * 3.5 + 4 * 4.5)),
        ("masks", 60),
    ):
        assert batch.targets[name].sum() == one
        assert not batch.targets[name][~there].any()


def test_pictures_without_any_object_are_a_batch():
    (batch,) = chosen_batches(_Objects(), 8, [0, 0])

    assert batch.images.shape == (2, 2, 3, 3)
    assert batch.targets["boxes"].shape == (2, 0, 4)
    assert batch.targets["labels"].shape == (2, 0)


def test_class_maps_are_stacked():
    (batch,) = ordered_batches(_Maps(), 8)

    assert batch.tensor.shape == (5, 2, 3)
    assert batch.tensor.dtype == torch.int64
    assert batch.tensor[:, 1, 2].tolist() == [0, 1, 2, 3, 4]


def test_unlabelled_pictures_have_minus_one_for_a_target():
    (batch,) = ordered_batches(_Unlabelled(), 8)

    assert batch.tensor.tolist() == [-1] * 5


@pytest.mark.parametrize("kind", [_Objects, _Maps, _Unlabelled])
def test_a_batch_without_a_readable_picture_names_them_all(kind):
    images = kind()
    images.damaged = (1, 2)

    (batch,) = chosen_batches(images, 8, [1, 2])

    assert len(batch.images) == 0
    assert batch.indices == ()
    assert batch.skipped == [("picture 1", "torn"), ("picture 2", "torn")]
    assert len(batch.to(torch.device("cpu")).images) == 0


def test_a_training_step_replaces_a_damaged_picture_of_any_kind():
    images = _Objects()
    images.damaged = (2,)
    order = images.order(0).tolist()
    following = order[(order.index(2) + 1) % 5]

    (batch,) = next(training_batches(images, 5))

    assert batch.indices == tuple(following if index == 2 else index for index in order)
    assert batch.images[:, 0, 0, 0].tolist() == list(batch.indices)
    assert (batch.targets["labels"] >= 0).sum(dim=1).tolist() == list(batch.indices)
    assert batch.skipped == [("picture 2", "torn")]


def test_shares_of_objects_make_up_the_batch():
    parts = [next(training_batches(_Objects(), 4, share=Share(rank, 2)))[0] for rank in (0, 1)]
    (whole,) = next(training_batches(_Objects(), 4))

    assert [part.first for part in parts] == [0, 2]
    assert parts[0].indices + parts[1].indices == whole.indices


def test_moving_a_batch_moves_its_targets_and_keeps_the_rest():
    nowhere = torch.device("meta")
    (objects,) = ordered_batches(_Objects(), 8)
    (maps,) = ordered_batches(_Maps(), 8)

    for batch in (objects, maps):
        moved = batch.to(nowhere)
        assert moved.images.device == nowhere
        assert all(value.device == nowhere for value in _tensors(moved))
        assert moved.indices == batch.indices
        assert [value.shape for value in _tensors(moved)] == [v.shape for v in _tensors(batch)]


def test_objects_are_no_single_tensor():
    (batch,) = ordered_batches(_Objects(), 8)

    with pytest.raises(TypeError, match="expected one tensor of targets, got boxes, labels, masks"):
        _ = batch.tensor


def _tensors(batch: Batch) -> list[Tensor]:
    return list(batch.targets.values()) if isinstance(batch.targets, dict) else [batch.targets]


@pytest.mark.parametrize(
    ("height", "width", "count"), [(8, 8, 32), (256, 256, 32), (800, 1216, 2), (4096, 4096, 1)]
)
def test_fewer_large_pictures_are_looked_at_together(height, width, count):
    assert at_once(_Objects(Preprocessing(height, width, framing="letterbox"))) == count
