"""Drawn pictures, by their pixels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import gpusq
from gpusq import drawing
from tests.conftest import encoded

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WIDTH, HEIGHT = 200, 150
NOISE = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
PICTURE = encoded(Image.fromarray(NOISE))


def about(kind: type, size: tuple[int, int] = (WIDTH, HEIGHT), **result: Any) -> Any:
    return kind("m", 1, gpusq.Size(*size), {"total": 1.0}, "id", **result)


def thing(
    box: tuple[float, float, float, float], mask: np.ndarray | None = None, index: int = 4
) -> gpusq.Detection:
    runs = None
    if mask is not None:
        found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        height, width = found["size"]
        runs = gpusq.RunLengths((height, width), found["counts"].decode())
    return gpusq.Detection("18", "dog", index, 0.93, gpusq.Box(*box), runs)


def drawn(answer: gpusq.PictureAnswer, data: bytes = PICTURE) -> np.ndarray:
    return np.asarray(drawing.draw(data, answer))


def detected(*things: gpusq.Detection) -> np.ndarray:
    return drawn(about(gpusq.DetectAnswer, detections=things))


def blended(pixels: np.ndarray, index: int, opacity: float) -> np.ndarray:
    return pixels + opacity * (np.array(drawing.colour(index)) - pixels.astype(float))


def test_masks_of_any_form_are_those_of_cocos_own_code():
    rng = np.random.default_rng(3)
    for height, width in ((1, 1), (5, 3), (40, 300), (64, 64)):
        for density in (0.0, 0.02, 0.5, 1.0):
            mask = rng.random((height, width)) < density
            runs = thing((0, 0, 1, 1), mask).rle
            assert runs is not None

            assert (np.asarray(runs.mask()) == 255 * mask).all()


def test_a_class_is_written_beneath_and_leaves_the_picture_as_it_is():
    named = gpusq.Prediction("n1", "tabby, tabby cat", 281, 0.75)

    seen = drawn(about(gpusq.ClassifyAnswer, predictions=(named,)))

    assert (seen[:HEIGHT, :WIDTH] == NOISE).all()
    beneath = seen[HEIGHT:]
    assert beneath.max() == 255
    assert beneath.min() == 0


def test_a_box_is_drawn_along_its_pixels_and_nothing_beyond_it_and_its_name():
    seen = detected(thing((50, 60, 120, 140)))

    changed = (seen != NOISE).any(axis=2)
    edge, name_px = 2, 12 + 2 * 3
    outside = changed.copy()
    outside[60 - name_px : 140, 50:120] = False
    assert not outside.any()
    tint = drawing.colour(4)
    for side in (seen[60, 50:120], seen[139, 50:120], seen[60:140, 50], seen[60:140, 119]):
        assert (side == tint).all()
    assert not changed[60 + edge : 140 - edge, 50 + edge : 120 - edge].any()


def test_a_mask_is_tinted_with_its_holes_left_clear():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[70:130, 60:110] = True
    mask[90:100, 80:90] = False

    seen = detected(thing((50, 60, 120, 140), mask))

    assert np.abs(seen[mask] - blended(NOISE[mask], 4, drawing.MASK_OPACITY)).max() <= 1
    inside = np.zeros_like(mask)
    inside[62:138, 52:118] = True
    clear = inside & ~mask
    assert (seen[clear] == NOISE[clear]).all()


def test_the_likelier_of_two_things_lies_on_top():
    first, second = (50.0, 60.0, 120.0, 140.0), (60.0, 60.0, 120.0, 140.0)

    seen = detected(thing(first, index=4), thing(second, index=5))

    assert (seen[100, 119] == drawing.colour(4)).all()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, WIDTH, HEIGHT),
        (0, 0, 0, 0),
        (WIDTH - 0.2, HEIGHT - 0.2, WIDTH, HEIGHT),
        (WIDTH - 5, 0, WIDTH, 5),
        (10.4, 10.4, 10.5, 10.6),
    ],
)
def test_boxes_at_the_edges_and_without_area_are_drawn(box):
    seen = detected(thing(box))

    assert seen.shape == NOISE.shape
    assert (seen != NOISE).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_pictures_of_any_shape_can_be_drawn_over(size):
    grey = Image.new("L", size)
    box = thing((0, 0, *size))
    area = gpusq.Area("1", "sky", 0, size[0] * size[1], 1.0)
    named = gpusq.Prediction("n1", "tabby", 281, 0.75)

    for answer in (
        about(gpusq.DetectAnswer, size, detections=(box,)),
        about(gpusq.ClassifyAnswer, size, predictions=(named,)),
        about(gpusq.SegmentAnswer, size, classes=(area,), unseen_px=0, class_map=encoded(grey)),
    ):
        seen = drawing.draw(encoded(grey), answer)

        assert seen.width >= size[0]
        assert seen.height >= size[1]


def test_a_map_tints_each_class_and_leaves_what_was_not_seen():
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes[:50], classes[50:80] = 3, drawing.UNSEEN
    areas = (
        gpusq.Area("1", "wall", 0, 70 * WIDTH, 70 / 150),
        gpusq.Area("4", "floor", 3, 50 * WIDTH, 50 / 150),
    )

    seen = drawn(
        about(
            gpusq.SegmentAnswer,
            classes=areas,
            unseen_px=30 * WIDTH,
            class_map=encoded(Image.fromarray(classes)),
        )
    )

    picture = seen[:HEIGHT, :WIDTH]
    for index in (0, 3):
        where = classes == index
        wanted = blended(NOISE[where], index, drawing.MAP_OPACITY)
        assert np.abs(picture[where] - wanted).max() <= 1
        # The legend has a patch of each.
        assert (seen[HEIGHT:] == drawing.colour(index)).all(axis=2).any()
    assert (picture[50:80] == NOISE[50:80]).all()


def test_a_long_legend_ends_with_how_many_are_left_out():
    def height(classes: int) -> int:
        areas = tuple(gpusq.Area(str(i), f"class {i}", i, 1, 0.01) for i in range(classes))
        map_ = encoded(Image.new("L", (WIDTH, HEIGHT)))
        answer = about(gpusq.SegmentAnswer, classes=areas, unseen_px=0, class_map=map_)
        return int(drawn(answer).shape[0])

    assert height(11) < height(12) == height(13) == height(150)


def test_colours_of_neighbours_differ_and_none_repeats_among_a_label_set():
    colours = [np.array(drawing.colour(index)) for index in range(150)]

    apart = [np.abs(a - b).sum() for a, b in itertools.pairwise(colours)]
    assert min(apart) > 100
    assert len({tuple(c) for c in colours}) == 150


def test_the_orientation_of_a_file_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6

    seen = drawing.upright(encoded(Image.fromarray(NOISE), exif=exif))

    assert (np.asarray(seen) == np.rot90(NOISE, -1)).all()


def test_transparency_lies_on_white_and_sixteen_bits_become_eight():
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    deep = Image.fromarray(np.full((4, 4), 0x8042, np.uint16))

    assert drawing.upright(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert drawing.upright(encoded(deep)).getpixel((0, 0)) == (0x80, 0x80, 0x80)
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = drawing.upright(encoded(cmyk, "JPEG")).getpixel((0, 0))
    assert isinstance(red, tuple)
    assert red[0] > 200 > red[1]


def test_an_answer_about_another_picture_is_not_drawn():
    with pytest.raises(gpusq.AnswerError, match="200 x 150"):
        drawn(about(gpusq.DetectAnswer, (150, 200), detections=()))


def test_a_file_that_is_no_picture_is_not_drawn_over():
    for data in (b"", b"text", PICTURE[:3000]):
        with pytest.raises(gpusq.PictureError):
            drawn(about(gpusq.DetectAnswer, detections=()), data)


def test_a_segmentation_without_a_map_is_not_drawn():
    with pytest.raises(gpusq.AnswerError, match="format=png"):
        drawn(about(gpusq.SegmentAnswer, classes=(), unseen_px=0))


BROAD = encoded(Image.new("L", (WIDTH + 1, HEIGHT)))


@pytest.mark.parametrize("side", [float("nan"), float("inf"), -float("inf")])
def test_a_box_that_is_nowhere_is_said(side: float):
    with pytest.raises(gpusq.AnswerError, match="Expected a box in pixels"):
        detected(thing((10, 10, side, 20)))


def test_a_box_beyond_the_picture_ends_at_its_edge():
    seen = detected(thing((50, 60, 1e300, 1e300)))

    assert (seen == detected(thing((50, 60, WIDTH, HEIGHT)))).all()


def test_a_mask_of_another_size_is_not_made():
    # It would take 100 TB.
    runs = gpusq.RunLengths((10_000_000, 10_000_000), "0")
    far = gpusq.Detection("18", "dog", 4, 0.93, gpusq.Box(0, 0, 9, 9), runs)

    with pytest.raises(gpusq.AnswerError, match="Expected a mask of 200 x 150 pixels"):
        detected(far)


@pytest.mark.parametrize(
    ("class_map", "said"),
    [
        (b"no PNG", "Expected a class map as PNG"),
        (BROAD[:-20], "Expected a class map of 200 x 150 pixels, it has 201 x 150"),
        (encoded(Image.new("1", (20_000, 20_000))), "Expected a class map"),
        (encoded(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG"), "Expected a class map as PNG"),
    ],
    ids=["noise", "broad", "bomb", "JPEG"],
)
def test_a_map_that_is_none_of_the_picture_is_said(class_map: bytes, said: str):
    area = gpusq.Area("3", "sky", 2, 12, 1.0)
    answer = about(gpusq.SegmentAnswer, classes=(area,), unseen_px=0, class_map=class_map)

    with pytest.raises(gpusq.AnswerError, match=said):
        drawn(answer)


def test_a_name_without_an_end_makes_no_endless_sheet():
    named = gpusq.Prediction("n1", "W" * 100_000, 281, 0.75)

    seen = drawn(about(gpusq.ClassifyAnswer, predictions=(named,)))

    assert seen.shape[1] < 2000
