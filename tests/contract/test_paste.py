"""The mask of a box lies in the picture where the rule says, pixel by pixel."""

import numpy as np
import pytest

from contract.paste import paste


def slowly(mask: np.ndarray, box: tuple[float, ...], size_px: tuple[int, int]) -> np.ndarray:
    """Take the bilinear value at every pixel's centre, with zeros around the mask."""
    width, height = size_px
    around = np.pad(mask.astype(float), 1)
    left, top, right, bottom = box
    whole = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            u = (x + 0.5 - left) / (right - left) * mask.shape[1] - 0.5
            v = (y + 0.5 - top) / (bottom - top) * mask.shape[0] - 0.5
            if not (-1 < u < mask.shape[1] and -1 < v < mask.shape[0]):
                continue
            i, j = int(np.floor(v)), int(np.floor(u))
            a, b = v - i, u - j
            rows = around[i + 1 : i + 3, j + 1 : j + 3]
            whole[y, x] = np.array([1 - a, a]) @ rows @ np.array([1 - b, b]) >= 0.5
    return whole


@pytest.mark.parametrize(
    "box",
    [
        (3.0, 4.0, 31.0, 32.0),  # a cell a pixel
        (2.3, 5.9, 37.7, 29.2),
        (-10.5, -3.2, 60.1, 20.0),
        (30.0, 30.0, 90.0, 90.0),
        (10.2, 10.1, 10.9, 30.0),
        (-5.0, 2.0, 1.0, 3.0),
    ],
)
def test_every_pixel_follows_the_rule(box: tuple[float, ...]):
    # Values away from one half, so that the last bit decides nothing.
    mask = np.random.default_rng(0).choice([0.0, 0.1, 0.93, 1.0], (28, 28)).astype(np.float32)
    size_px = (47, 39)

    region = paste(mask, np.array(box), size_px)

    whole = np.zeros((39, 47), bool)
    height, width = region.mask.shape
    whole[region.top_px : region.top_px + height, region.left_px : region.left_px + width] = (
        region.mask
    )
    np.testing.assert_array_equal(whole, slowly(mask, box, size_px))


def test_a_full_mask_fills_its_box():
    region = paste(np.ones((28, 28), np.float32), np.array([2.0, 3.0, 12.0, 9.0]), (20, 20))

    assert (region.left_px, region.top_px) == (2, 3)
    assert region.mask.shape == (6, 10)
    assert region.mask.all()


def test_a_large_mask_is_computed_in_parts_and_comes_out_whole():
    mask = np.zeros((28, 28), np.float32)
    mask[:14] = 1

    region = paste(mask, np.array([0.0, 0.0, 3000.0, 4000.0]), (3000, 4000))

    # The edge of the mask fades into nothing, over half a cell.
    assert region.mask[60:1900, 60:-60].all()
    assert not region.mask[2100:].any()
