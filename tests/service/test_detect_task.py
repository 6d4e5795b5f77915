from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from contract import labels
from contract.paste import paste
from contract.preprocess import Preprocessing
from contract.view import View
from service.errors import Code, GatewayError, ModelError
from service.tasks import detect
from service.tasks.contours import outlines
from service.tasks.detect import Detection, Options
from service.tasks.task import Asked

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = labels.load("coco")
# Twice as large as the input, which is empty below it.
VIEW = View.of((200, 100), Preprocessing(100, 100, framing="letterbox"))


def outputs(*places: tuple[float, int, tuple[float, ...]], **more: Any) -> dict[str, np.ndarray]:
    scores, classes, boxes = zip(*places, strict=True)
    return {
        "scores": np.array([scores], np.float32),
        "labels": np.array([classes], np.int32),
        "boxes": np.array([boxes], np.float32),
        **more,
    }


def predict(given: dict[str, np.ndarray], view: View = VIEW, **options: Any) -> list[Detection]:
    return detect.predict(given, Asked(NAMES, view, Options(**options)))


BOX = (0.1, 0.1, 0.5, 0.3)


def test_a_box_is_in_pixels_of_the_picture_with_the_name_of_its_class():
    (found,) = predict(outputs((0.75, 16, BOX)))

    assert (found.index, found.label_id, found.label, found.score) == (16, "18", "dog", 0.75)
    assert found.box == pytest.approx((20, 20, 100, 60))
    assert found.rle is found.polygons is None


def test_the_highest_score_comes_first_and_of_equal_ones_the_earlier_place():
    found = predict(outputs((0.4, 1, BOX), (0.9, 2, BOX), (0.4, 3, BOX)))

    assert [d.index for d in found] == [2, 1, 3]


@pytest.mark.parametrize(
    ("options", "indices"),
    [
        ({}, [2, 1]),
        ({"min_score": 0.9}, [2]),
        ({"min_score": 0.0}, [2, 1, 3]),
        ({"min_score": 1.0}, []),
        ({"min_score": 0.0, "max_detections": 2}, [2, 1]),
    ],
)
def test_a_request_chooses_how_many_are_answered(options: dict[str, float], indices: list[int]):
    found = predict(outputs((0.4, 1, BOX), (0.9, 2, BOX), (0.1, 3, BOX)), **options)

    assert [d.index for d in found] == indices


def test_unused_places_are_never_answered():
    # Such a place may hold anything.
    nowhere = (np.nan, np.inf, -1.0, 0.0)

    found = predict(outputs((0.5, 1, BOX), (0.0, -7, nowhere)), min_score=0)

    assert len(found) == 1


def test_what_lies_outside_the_picture_is_cut_off_and_takes_no_place():
    below = (0.1, 0.6, 0.5, 0.9)
    inverted = (0.5, 0.1, 0.1, 0.3)

    found = predict(
        outputs((0.9, 1, below), (0.8, 1, inverted), (0.7, 2, (-0.5, 0.4, 2, 0.9))),
        max_detections=1,
    )

    assert [(d.index, d.box) for d in found] == [(2, pytest.approx((0, 80, 200, 100)))]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((np.nan, 1, BOX), "scores that are not numbers"),
        ((np.inf, 1, BOX), "scores that are not numbers"),
        ((0.9, 1, (0.1, np.nan, 0.2, 0.3)), "boxes that are not numbers"),
        ((0.9, 80, BOX), "the class 80, and there are 80"),
        ((0.9, -1, BOX), "the class -1"),
    ],
)
def test_a_broken_network_is_an_internal_error(place: tuple, said: str):
    with pytest.raises(GatewayError, match=said) as caught:
        predict(outputs((0.95, 1, BOX), place))

    assert caught.value.code is Code.INTERNAL


def test_masks_of_a_network_without_masks_are_refused():
    with pytest.raises(GatewayError, match="this model gives boxes only, got 'rle'") as caught:
        predict(outputs((0.9, 1, BOX)), masks="rle")

    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_mask_lies_over_the_whole_box_even_where_that_reaches_beyond_the_picture():
    random = np.random.default_rng(0)
    masks = random.choice([0, 1], (1, 2, 28, 28)).astype(np.float32)
    places = (0.9, 1, BOX), (0.8, 2, (-0.2, 0.3, 0.4, 0.8))
    given = outputs(*places, masks=masks)

    found = predict(given, masks="rle")

    assert [d.index for d in found] == [1, 2]
    for detection, mask, (_, _, box) in zip(found, masks[0], places, strict=True):
        region = paste(mask, 200 * np.float64(np.float32(box)), (200, 100))
        whole = np.zeros((100, 200), bool)
        rows, columns = region.mask.shape
        whole[region.top_px : region.top_px + rows, region.left_px : region.left_px + columns] = (
            region.mask
        )
        runs = detection.rle
        assert runs is not None
        decoded = coco.decode({"size": list(runs.size), "counts": runs.counts.encode()})
        np.testing.assert_array_equal(decoded, whole)
    polygons = predict(given, masks="polygons")
    assert polygons[1].polygons == outlines(whole)


def test_the_masks_that_nobody_waits_for_are_not_computed():
    given = outputs((0.9, 1, BOX), masks=np.ones((1, 1, 28, 28), np.float32))

    asked = Asked(NAMES, VIEW, Options(masks="rle"), given_up=lambda: True)

    assert detect.predict(given, asked) == []


SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "scores": ("float32", (-1, 9)),
    "labels": ("int32", (-1, 9)),
    "boxes": ("float32", (-1, 9, 4)),
    "masks": ("float32", (-1, 9, 28, 28)),
}


@pytest.mark.parametrize("without", [(), ("masks",)])
def test_outputs_of_a_detector_are_accepted(without: tuple[str, ...]):
    given = {name: shape for name, shape in SHAPES.items() if name not in without}

    detect.require_outputs(given, NAMES)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": ("float32", (-1, 8))},
        {"scores": ("float32", (-1,))},
        {"scores": ("float16", (-1, 9))},
        {"labels": ("int64", (-1, 9))},
        {"boxes": ("float32", (-1, 9, 5))},
        {"boxes": ("", ())},
        {"masks": ("float32", (-1, 9, 28, 14))},
        {"masks": ("uint8", (-1, 9, 28, 28))},
    ],
)
def test_outputs_of_no_detector_are_refused(change: dict):
    with pytest.raises(ModelError, match="80 labels to detect"):
        detect.require_outputs({**SHAPES, **change}, NAMES)


def test_a_network_without_scores_is_no_detector():
    with pytest.raises(ModelError, match=r"got \{\}"):
        detect.require_outputs({}, NAMES)
