"""Run lengths are to the character those of pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco

from contract.paste import Region
from service.tasks import rle
from tests.service.shapes import MASKS

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def of_pycocotools(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def decoded(encoded: rle.Rle) -> np.ndarray:
    plain = {"size": list(encoded.size), "counts": encoded.counts.encode()}
    return coco.decode(plain).astype(bool)


@pytest.mark.parametrize("name", MASKS)
def test_a_whole_mask_is_encoded_as_pycocotools_does(name: str):
    mask = MASKS[name]
    height, width = mask.shape

    encoded = rle.of_region(Region(mask, 0, 0), (width, height))

    assert encoded.size == (height, width)
    assert encoded.counts == of_pycocotools(mask)
    np.testing.assert_array_equal(decoded(encoded), mask)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("left", "top", "more"), [(0, 0, 1), (3, 0, 0), (0, 2, 0), (5, 7, 40)])
def test_a_mask_somewhere_in_a_picture_is_the_picture_s(name: str, left: int, top: int, more: int):
    mask = MASKS[name]
    whole = np.pad(mask, ((top, more), (left, more)))
    height, width = whole.shape

    encoded = rle.of_region(Region(mask, left, top), (width, height))

    assert encoded == rle.Rle((height, width), of_pycocotools(whole))


def test_runs_of_every_length_and_sign_of_difference_are_written_as_pycocotools_does():
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = np.exp(random.uniform(0, 11, random.integers(1, 9))).astype(int)
        column = np.repeat(np.arange(len(lengths)) % 2 == random.integers(2), lengths)[:, None]

        encoded = rle.of_region(Region(column, 0, 0), (1, len(column)))

        assert encoded.counts == of_pycocotools(column)


def test_every_class_of_a_map_is_encoded_as_its_mask():
    random = np.random.default_rng(1)
    for height, width, classes in ((1, 1, 1), (17, 9, 3), (40, 60, 200), (5, 300, 2)):
        class_map = random.integers(0, classes, (height, width)).astype(np.uint8)

        encoded = rle.of_classes(class_map)

        assert set(encoded) == set(np.unique(class_map))
        for index, runs in encoded.items():
            assert runs == rle.Rle((height, width), of_pycocotools(class_map == index))
