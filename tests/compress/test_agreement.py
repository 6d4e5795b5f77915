import functools

import numpy as np
import pytest

from compress import agreement
from compress.pairing import pairs

detections = functools.partial(agreement.compare, "detect")
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

    found = agreement.compare("segment", maps, maps)

    assert (found.largest, found.mean, found.agreement) == (0, 0, 1)


def test_the_picture_with_most_pixels_of_another_class_is_named():
    ours = {"class_map": np.zeros((3, 4, 4), np.uint8)}
    theirs = {"class_map": ours["class_map"].copy()}
    theirs["class_map"][0, 0, 0] = 1
    theirs["class_map"][2, 0] = 1

    found = agreement.compare("segment", ours, theirs)

    assert found.where == "picture 2"
    assert found.largest == pytest.approx(4 / 16)
    assert found.agreement == pytest.approx(1 - 5 / 48)


def test_the_order_of_objects_does_not_matter():
    turned = {name: value[:, ::-1].copy() for name, value in ANSWERS.items()}

    found = detections(ANSWERS, turned)

    assert (found.largest, found.agreement) == (0, 1)


def test_an_object_of_another_class_or_place_or_score_is_found():
    labels = ANSWERS["labels"].copy()
    labels[0, 1] = 2
    boxes = ANSWERS["boxes"].copy()
    boxes[1, 0] += 0.1
    scores = ANSWERS["scores"].copy()
    scores[0, 0] = 0.7

    assert detections(ANSWERS, changed(labels=labels)).agreement == pytest.approx(2 / 3)
    assert detections(ANSWERS, changed(boxes=boxes)).agreement == pytest.approx(2 / 3)
    found = detections(ANSWERS, changed(scores=scores))
    assert found.largest == pytest.approx(0.2)
    assert found.mean == pytest.approx(0.2 / 3)
    assert found.where == "picture 0, object 0"


def test_of_boxes_in_one_place_the_one_with_the_nearest_score_is_meant():
    twice = changed()
    twice["labels"][0, 2] = 3
    twice["boxes"][0, 2] = twice["boxes"][0, 0]
    twice["scores"][0, 2] = 0.2

    assert [pair.apart for pair in pairs(twice, twice, 0)] == [0, 0]


def refused(found: agreement.Parity) -> bool:
    return not found.holds


def test_what_the_graph_alone_sees_differs():
    nothing = changed(scores=np.zeros((2, 3), np.float32))

    assert not refused(detections(nothing, nothing))
    assert detections(nothing, ANSWERS).agreement == 0
    more = changed()
    more["scores"][0, 2] = 0.5
    found = detections(ANSWERS, more)
    # Three objects of the network and four of the graph; only the score of one is another.
    assert found.mean == pytest.approx(0.4 / 7)
    assert found.refusal


def test_a_second_box_of_one_object_differs():
    twice = changed()
    twice["scores"][1, 1], twice["labels"][1, 1] = 0.6, 2
    twice["boxes"][1, 1] = twice["boxes"][1, 0]

    assert detections(ANSWERS, twice).agreement == pytest.approx(6 / 7)


def test_scores_that_nobody_sees_are_compared_too():
    faint = changed(scores=np.full((2, 3), 0.25, np.float32))
    fainter = changed(scores=np.full((2, 3), 0.05, np.float32))

    assert not refused(detections(faint, faint))
    assert detections(faint, fainter).mean == pytest.approx(0.2)


def test_a_mask_that_lies_another_way_differs():
    masks = np.zeros((2, 3, 28, 28), np.float32)
    masks[..., :14] = 0.9
    upright = {**ANSWERS, "masks": masks}
    noisy = {**ANSWERS, "masks": np.clip(masks + 0.05, 0, 1)}

    assert detections(upright, noisy).agreement == 1
    assert detections(upright, {**upright, "masks": masks.swapaxes(2, 3)}).agreement == 0


def test_answers_that_are_no_numbers_never_pass():
    broken = changed(scores=np.full((2, 3), np.nan, np.float32))

    assert refused(detections(ANSWERS, broken))
    assert refused(detections(changed(scores=np.zeros((2, 3), np.float32)), broken))
