import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.folder import ImageFolder
from compress.errors import DataError
from compress.evaluate import Score, TopFive, _ranks, evaluate, torch_asked
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import tiny

LABELS = labels.inline(list(tiny.CLASSES))


def scored(score, images: ImageFolder, **others) -> Score:
    """Score what gives [b, k] scores for pictures."""
    return evaluate(lambda batch: {"scores": score(batch)}, images, TopFive(), "scoring", **others)


def ranks(scores: list[list[float]], right: list[int]) -> list[int]:
    return _ranks(np.array(scores, np.float32), np.array(right))


def test_a_rank_counts_the_classes_before_the_right_one():
    scores = [0.1, 0.9, 0.5]

    assert ranks([scores] * 3, [0, 1, 2]) == [2, 0, 1]


def test_of_equal_scores_the_lower_index_comes_first_as_in_argmax():
    scores = [[0.5, 0.9, 0.9, 0.5]] * 4

    assert ranks(scores, [0, 1, 2, 3]) == [2, 0, 1, 3]


def test_ranks_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    # Few distinct values, so that there are many ties.
    scores = rng.integers(0, 4, (200, 7)).astype(np.float32)
    right = rng.integers(0, 7, 200)

    expected = [
        sorted(range(7), key=lambda label: (-row[label], label)).index(answer)
        for row, answer in zip(scores.tolist(), right.tolist(), strict=True)
    ]

    assert _ranks(scores, right) == expected


def test_a_network_that_answers_nan_is_never_right():
    assert ranks([[np.nan] * 6] * 6, [0, 1, 2, 3, 4, 5]) == [6] * 6
    assert ranks([[0.9, np.nan, 0.1]], [0]) == [1]


@pytest.fixture
def images(tmp_path) -> ImageFolder:
    root = tiny.write_pictures(tmp_path / "pictures", each=4)
    return ImageFolder(root, LABELS, Preprocessing(8, 8, 8))


def test_a_network_with_one_answer_for_everything_is_right_once_a_class(images):
    score = scored(lambda batch: np.zeros((len(batch), 3), np.float32), images)

    assert score.main == pytest.approx(1 / 3)


def test_top1_and_top5_by_hand(tmp_path):
    names = [f"class {index}" for index in range(7)]
    root = tmp_path / "pictures"
    tiny.write_pictures(root, each=2)
    for index, old in enumerate(tiny.CLASSES):
        (root / old).rename(root / names[index])
    folder = ImageFolder(root, labels.inline(names), Preprocessing(8, 8, 8))
    # The right class is first for class 0, fifth for class 1, sixth for class 2.
    rows = {0: [9, 1, 2, 3, 4, 5, 6], 1: [9, 4, 8, 7, 6, 1, 2], 2: [9, 8, 1, 7, 6, 5, 0]}

    def score(batch):
        return np.array([rows[p.mean((0, 1)).argmax()] for p in batch], np.float32)

    found = scored(score, folder)

    assert found.values == {"top1": 2 / 6, "top5": 4 / 6}
    assert found.images == 6


def test_damaged_pictures_are_named_and_not_counted(images):
    Path(images.files[5].path).write_bytes(b"no picture")

    found = scored(lambda batch: batch.mean(axis=(1, 2)), images)

    assert (found.main, found.images) == (1.0, 11)
    assert list(found.skipped) == [images.files[5].path]
    assert found.plain() == {
        "top1": 1.0,
        "top5": 1.0,
        "images": 11,
        "skipped": found.skipped,
    }


class _Signed(ImageFolder):
    """Signs each picture's corner with who decoded it."""

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        worker = torch.utils.data.get_worker_info()
        if isinstance(sample, tuple):
            return sample
        pixels = sample.pixels.copy()
        pixels[0, 0] = 100 + worker.id if worker else 0
        return dataclasses.replace(sample, pixels=pixels)


# From Python 3.12 on, forking beside any other thread warns.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_as_many_workers_decode_as_are_asked_for(tmp_path, workers):
    root = tiny.write_pictures(tmp_path / "pictures", each=14)
    images = _Signed(root, LABELS, Preprocessing(8, 8, 8))
    Path(images.files[5].path).write_bytes(b"no picture")
    signed = set()

    def score(batch):
        signed.update(batch[:, 0, 0, 0].tolist())
        return batch.mean(axis=(1, 2))

    found = scored(score, images, workers=workers)

    assert signed == ({100, 101} if workers else {0})
    assert (found.main, found.images) == (1.0, 41)
    assert list(found.skipped) == [images.files[5].path]


def test_a_folder_of_damaged_pictures_alone_is_refused(images):
    for stored in images.files:
        Path(stored.path).write_bytes(b"no picture")

    with pytest.raises(DataError, match="none of the 12 pictures can be scored") as refused:
        scored(lambda batch: batch.mean(axis=(1, 2)), images)

    # One reason is enough where there may be thousands.
    named = [stored.path for stored in images.files if stored.path in str(refused.value)]
    assert named == [images.files[0].path]


def test_a_torch_network_is_asked_for_probabilities(network):
    pictures = tiny.pictures(5)

    with torch.inference_mode():
        expected = network(pictures).softmax(dim=1).numpy()

    answers = torch_asked(network)(pictures.numpy())
    assert list(answers) == ["scores"]
    assert np.array_equal(answers["scores"], expected)


def test_a_score_says_each_metric_in_the_words_of_the_field(images):
    found = scored(lambda batch: batch.mean(axis=(1, 2)), images)

    assert found.text() == "top-1 1.0000   top-5 1.0000   images 12"
