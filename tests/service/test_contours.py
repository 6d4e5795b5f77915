"""Filling the outlines of a mask gives back the mask."""

import numpy as np
import pytest
from pycocotools import mask as coco

from contract.paste import Region
from service.tasks.contours import of_region, outlines
from tests.service.shapes import MASKS, of_text

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def filled(polygons: list[list[int]], shape: tuple[int, int]) -> np.ndarray:
    """Fill by the even-odd rule at the centres of the pixels, one edge after the other."""
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        points = list(zip(polygon[0::2], polygon[1::2], strict=True))
        one = np.zeros(shape, bool)
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            assert (x0 == x1) != (y0 == y1)
            if x0 == x1:
                one[min(y0, y1) : max(y0, y1), x0:] ^= True
        inside |= one
    return inside


def without_holes(mask: np.ndarray) -> np.ndarray:
    """Set what cannot be reached from outside, diagonally too, by spreading step by step."""
    outside = np.pad(~mask, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0, :] = True
    while True:
        wide = np.pad(reached, 1)
        height, width = reached.shape
        spread = np.zeros_like(reached)
        for row in range(3):
            for column in range(3):
                spread |= wide[row : row + height, column : column + width]
        spread &= outside
        if (spread == reached).all():
            return ~reached[1:-1, 1:-1]
        reached = spread


@pytest.mark.parametrize("name", MASKS)
def test_filling_the_outlines_gives_back_the_mask_with_its_holes_filled(name: str):
    mask = MASKS[name]

    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), without_holes(mask))


@pytest.mark.parametrize("name", ["everything", "disc", "large"])
def test_pycocotools_fills_them_to_the_same_mask_up_to_its_border(name: str):
    mask = MASKS[name]
    height, width = mask.shape

    polygons = [list(map(float, polygon)) for polygon in outlines(mask)]
    found = coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)

    padded = np.pad(mask, 1)
    neighbours = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    border = np.any([neighbour != mask for neighbour in neighbours], axis=0)
    np.testing.assert_array_equal(found[~border], mask[~border])


def test_a_polygon_has_no_more_points_than_it_has_corners():
    assert outlines(of_text("....", ".###", ".#..")) == [[1, 1, 4, 1, 4, 2, 2, 2, 2, 3, 1, 3]]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nothing", 0),
        ("everything", 1),
        ("corners", 4),
        ("a ring", 1),
        ("a ring around a dot", 2),
        ("touching, falling", 3),
        ("touching, rising", 3),
    ],
)
def test_each_part_has_one_outline(name: str, parts: int):
    assert len(outlines(MASKS[name])) == parts


def test_a_mask_somewhere_in_a_picture_has_its_outline_there():
    region = Region(np.ones((2, 3), bool), 10, 20)

    assert of_region(region) == [[10, 20, 13, 20, 13, 22, 10, 22]]
