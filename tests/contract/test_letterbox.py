"""A letterboxed picture is whole, and every place in it is found again in the input."""

import json

import numpy as np
import pytest
from PIL import Image

from contract import labels
from contract.card import ModelCard, Precision
from contract.letterbox import COLOUR, placement, scaled_size
from contract.preprocess import Preprocessing, decode, decode_to_fit, fit, preprocess
from tests.contract.pictures import encoded, flat, noise, photo

FORM = Preprocessing(96, 160, interpolation="bilinear", framing="letterbox")
SIZES_PX = [(320, 240), (333, 517), (1001, 97), (97, 1001), (160, 96), (31, 33), (90, 1), (1, 90)]


def scaled_and_laid(image: Image.Image, form: Preprocessing) -> np.ndarray:
    """Do in two plain steps what the framing says."""
    scale = min(form.height / image.height, form.width / image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (form.width, form.height), (124, 116, 104))
    canvas.paste(image.resize(size, Image.Resampling[form.interpolation.upper()]), (0, 0))
    return np.array(canvas)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_the_input_is_the_scaled_picture_on_its_ground(size_px):
    image = noise(*size_px)

    np.testing.assert_array_equal(fit(image, FORM), scaled_and_laid(image, FORM))


def test_any_size_fits_and_fills_one_axis():
    random = np.random.default_rng(0)
    for _ in range(2000):
        width, height = np.exp(random.uniform(0, np.log(20_000), 2)).astype(int)
        form = Preprocessing(*map(int, random.integers(1, 1400, 2)), framing="letterbox")

        scaled_width, scaled_height = scaled_size((int(width), int(height)), form)

        assert 1 <= scaled_width <= form.width
        assert 1 <= scaled_height <= form.height
        assert scaled_width == form.width or scaled_height == form.height


def edges(row: np.ndarray) -> tuple[float, float]:
    """Return where a white bar on black begins and ends, to less than a pixel."""
    weight = row / row.max()
    middle = float((weight * (np.arange(len(row)) + 0.5)).sum() / weight.sum())
    half = float(weight.sum()) / 2
    return middle - half, middle + half


@pytest.mark.parametrize("size_px", [size for size in SIZES_PX if min(size) > 1])
def test_a_box_drawn_in_the_picture_is_found_again_in_the_input(size_px):
    width, height = size_px
    box = (width // 4, height // 3, width // 4 + width // 2, height // 3 + height // 2)
    image = flat("RGB", (0, 0, 0), size_px)
    image.paste((255, 255, 255), box)

    place = placement(size_px, FORM)
    seen = fit(image, FORM)[: place.size_px[1], : place.size_px[0], 0].astype(float)
    left, right = edges(seen.sum(axis=0))
    top, bottom = edges(seen.sum(axis=1))

    step_x, step_y = width / place.size_px[0], height / place.size_px[1]
    found = (left * step_x, top * step_y, right * step_x, bottom * step_y)
    assert found == pytest.approx(box, abs=1)
    assert place.box == (0, 0, width, height)


@pytest.mark.parametrize("size_px", [(300, 200), (201, 333)])
def test_the_centre_box_is_what_a_cut_shows(size_px):
    form = Preprocessing(40, 60, 64, "bilinear")
    place = placement(size_px, form)
    image = flat("RGB", (0, 0, 0), size_px)
    image.paste((255, 255, 255), tuple(map(round, place.box)))

    pixels = fit(image, form)

    assert place.size_px == (60, 40)
    # Rounded to whole pixels, the outermost lines of the cut may be grey.
    assert (pixels[1:-1, 1:-1] == 255).all()


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("size_px", [(1601, 1207), (807, 801), (2400, 299)])
def test_a_reduced_decode_shows_the_same_at_the_same_place(size_px, turned):
    form = Preprocessing(75, 100, framing="letterbox")
    exif = Image.Exif()
    exif[0x0112] = turned
    data = encoded(photo(*size_px), "JPEG", quality=90, exif=exif)
    decoded = decode_to_fit(data, form)

    assert decoded.size_px == (size_px if turned < 5 else size_px[::-1])
    assert max(200, 100) <= max(decoded.image.size) < max(size_px)
    shown = preprocess(data, form).astype(int)
    # A decode that is stretched by the part of a pixel that it reaches too far differs by over 1.
    assert abs(shown - fit(decode(data), form)).mean() < 0.5
    # What lies beyond the picture is the ground, to the pixel.
    scaled_width, scaled_height = scaled_size(decoded.size_px, form)
    assert (shown[scaled_height:] == COLOUR).all()
    assert (shown[:, scaled_width:] == COLOUR).all()


def test_a_small_jpeg_is_not_reduced():
    decoded = decode_to_fit(encoded(photo(300, 200), "JPEG"), FORM)

    assert decoded.image.size == decoded.size_px == (300, 200)
    assert decoded.extent == (0, 0, 300, 200)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 8, 0, "bicubic", "letterbox"), "1 <= height, width and shorter_side_px = 0"),
        ((8, 8, 8, "bicubic", "letterbox"), "shorter_side_px = 0 for a letterbox, got 8, 8 and 8"),
        ((8, 8, 0, "bicubic", "crop"), "height, width <= shorter_side_px"),
        ((8, 8, 8, "bicubic", "pad"), "framing must be one of crop, letterbox, got 'pad'"),
    ],
)
def test_a_framing_that_no_picture_satisfies_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(*values)


def test_the_card_carries_the_framing():
    precision = Precision("float32", "float32", "dense")
    card = ModelCard("detect", labels.load("coco"), FORM, precision)

    assert ModelCard.from_json(card.to_json()) == card
    assert json.loads(card.to_json())["preprocessing"]["framing"] == "letterbox"


def test_a_card_from_before_framings_cuts():
    precision = Precision("float32", "float32", "dense")
    card = ModelCard("classify", labels.inline(["a"]), Preprocessing(8, 8, 8), precision)
    plain = json.loads(card.to_json())
    del plain["preprocessing"]["framing"]

    assert ModelCard.from_json(json.dumps(plain)) == card
