"""The cut that a network sees is the one its published accuracy was measured on."""

import numpy as np
import pytest
from PIL import Image

from contract.preprocess import Preprocessing, decode, fit, preprocess
from tests.contract.pictures import encoded, flat, noise, photo

IMAGENET = Preprocessing(224, 224, 256)


def published(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Scale whole and then cut, as torchvision's Resize and CenterCrop do.

    Source: torchvision v0.20, transforms/functional.py, _compute_resized_output_size and
    center_crop.
    """
    shorter, longer = sorted(image.size)
    target = preprocessing.shorter_side_px
    scaled_longer = int(target * longer / shorter)
    size = (target, scaled_longer) if image.width <= image.height else (scaled_longer, target)
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    scaled = image.resize(size, resampling)
    top = round((scaled.height - preprocessing.height) / 2.0)
    left = round((scaled.width - preprocessing.width) / 2.0)
    box = (left, top, left + preprocessing.width, top + preprocessing.height)
    return np.array(scaled.crop(box))


@pytest.mark.parametrize(
    "preprocessing",
    [
        IMAGENET,
        Preprocessing(224, 224, 224),
        Preprocessing(96, 160, 171, "bilinear"),
        Preprocessing(33, 20, 40, "lanczos"),
    ],
)
def test_the_cut_is_the_published_one(preprocessing):
    random = np.random.default_rng(1)
    for seed in range(12):
        width, height = map(int, random.integers(30, 700, 2))
        of_photo = distance(photo(width, height, seed), preprocessing)
        of_noise = distance(noise(width, height, seed), preprocessing)
        # Pillow rounds and clips between its two passes, of which the cut may change the order.
        # A cut one pixel off differs by tens on noise.
        assert of_photo.max() <= 2, f"{width} x {height}"
        assert of_noise.mean() < 0.5, f"{width} x {height}"


def distance(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    return abs(fit(image, preprocessing).astype(int) - published(image, preprocessing))


def test_a_reduced_decode_changes_the_cut_by_less_than_one_of_255():
    for seed in range(3):
        data = encoded(photo(1700, 1300, seed), "JPEG", quality=90)
        assert decode(data, shorter_side_px=256).size < (1700, 1300)

        full = fit(decode(data), IMAGENET).astype(int)

        assert abs(preprocess(data, IMAGENET) - full).mean() < 1


@pytest.mark.parametrize("size_px", [(1, 1), (1, 20_000), (20_000, 1), (2, 3), (7, 5000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_extreme_shapes_become_the_same_input_as_any_other(kind, size_px):
    # Scaling a 1 x 20000 strip whole would make a picture of 4 GB.
    pixels = preprocess(encoded(flat("RGB", (10, 200, 30), size_px), kind), IMAGENET)

    assert (pixels.shape, pixels.dtype) == ((224, 224, 3), np.uint8)
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), (10, 200, 30), atol=2)


def test_any_size_gives_the_shape_and_type_that_the_graph_reads():
    random = np.random.default_rng(2)
    for _ in range(300):
        width, height = np.exp(random.uniform(0, np.log(3000), 2)).astype(int)
        rows, columns = map(int, random.integers(1, 64, 2))
        preprocessing = Preprocessing(rows, columns, max(rows, columns) + int(random.integers(9)))

        pixels = fit(flat("RGB", (9, 99, 199), (int(width), int(height))), preprocessing)

        assert (pixels.shape, pixels.dtype) == ((rows, columns, 3), np.uint8)
        assert pixels.flags.c_contiguous
        # A cut that reached over the edge would bring in another colour.
        assert (pixels == (9, 99, 199)).all()


def test_the_middle_of_the_picture_is_what_remains():
    image = flat("RGB", (0, 0, 0), (300, 100))
    image.paste((255, 0, 0), (100, 0, 200, 100))

    assert (fit(image, Preprocessing(80, 80, 100))[:, :, 0] == 255).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 224, 256, "bicubic"), "1 <= height"),
        ((224, 224, 223, "bicubic"), "<= shorter_side_px"),
        ((224, 224, 256, "nearest"), "one of bicubic, bilinear, lanczos, got 'nearest'"),
    ],
)
def test_preprocessing_that_no_picture_satisfies_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(*values)
