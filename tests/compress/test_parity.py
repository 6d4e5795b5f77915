import numpy as np
import pytest

from compress import parity
from compress.pairing import pairs

ANSWERS = {
    "scores": np.array([[0.9, 0.8, 0.1], [0.6, 0.0, 0.0]], np.float32),
    "labels": np.array([[3, 1, 1], [2, 0, 0]], np.int32),
    "boxes": np.array(
        [
            [[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.8, 0.9], [0, 0, 1, 1]],
            [[0.2, 0.2, 0.9, 0.9], [0, 0, 0, 0], [0, 0, 0, 0]],
        ],
        np.float32,
    ),
}


def changed(**others):
    return {**{name: value.copy() for name, value in ANSWERS.items()}, **others}


def test_equal_class_maps_agree_on_every_pixel():
    maps = {"class_map": np.arange(32, dtype=np.uint8).reshape(2, 4, 4)}

    found = parity._class_maps(maps, maps)

    assert (found.largest, found.mean, found.agreement) == (0, 0, 1)


def test_the_picture_with_most_pixels_of_another_class_is_named():
    ours = {"class_map": np.zeros((3, 4, 4), np.uint8)}
    theirs = {"class_map": ours["class_map"].copy()}
    theirs["class_map"][0, 0, 0] = 1
    theirs["class_map"][2, 0] = 1

    found = parity._class_maps(ours, theirs)

    assert found.where == "picture 2"
    assert found.largest == pytest.approx(4 / 16)
    assert found.agreement == pytest.approx(1 - 5 / 48)


def test_the_order_of_objects_does_not_matter():
    turned = {name: value[:, ::-1].copy() for name, value in ANSWERS.items()}

    found = parity._detections(ANSWERS, turned)

    assert (found.largest, found.agreement) == (0, 1)


def test_an_object_of_another_class_or_place_or_score_is_found():
    labels = ANSWERS["labels"].copy()
    labels[0, 1] = 2
    boxes = ANSWERS["boxes"].copy()
    boxes[1, 0] += 0.1
    scores = ANSWERS["scores"].copy()
    scores[0, 0] = 0.7

    assert parity._detections(ANSWERS, changed(labels=labels)).agreement == pytest.approx(2 / 3)
    assert parity._detections(ANSWERS, changed(boxes=boxes)).agreement == pytest.approx(2 / 3)
    found = parity._detections(ANSWERS, changed(scores=scores))
    assert found.largest == pytest.approx(0.2)
    assert found.mean == pytest.approx(0.2 / 3)
    assert found.where == "picture 0, object 0"


def test_of_boxes_in_one_place_the_one_with_the_nearest_score_is_meant():
    twice = changed()
    twice["labels"][0, 2] = 3
    twice["boxes"][0, 2] = twice["boxes"][0, 0]
    twice["scores"][0, 2] = 0.2

    assert [apart for _, _, apart in pairs(twice, twice, 0)] == [0, 0]


def test_a_graph_that_sees_objects_where_the_network_sees_none_differs():
    nothing = changed(scores=np.zeros((2, 3), np.float32))

    assert parity._detections(nothing, nothing).mean == 0
    assert parity._detections(nothing, ANSWERS).mean == 1


def test_answers_that_are_no_numbers_never_pass():
    broken = changed(scores=np.full((2, 3), np.nan, np.float32))

    found = parity._detections(ANSWERS, broken)

    assert not (found.mean <= found.allowed and found.agreement >= 0.98)
