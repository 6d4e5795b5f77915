"""How far two networks agree, against what a hand or a slow loop computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract import labels
from contract.preprocess import Preprocessing
from contract.view import UNSEEN, View
from service.tasks import agreement
from service.tasks.task import Seen

NAMES = labels.inline(["sky", "sea", "land"])
# The same names in another order.
TURNED = labels.inline(["land", "sky", "sea"])
SQUARE = Preprocessing(100, 100, 100)
WHOLE = Preprocessing(50, 100, framing="letterbox")
CUT = Preprocessing(48, 64, 64)


def seen(
    size_px: tuple[int, int] = (100, 100),
    form: Preprocessing = SQUARE,
    names: labels.LabelSet = NAMES,
    **outputs: Any,
) -> Seen:
    return Seen(outputs, View.of(size_px, form), names)


def classes(*scores: float, names: labels.LabelSet = NAMES) -> Seen:
    return seen(scores=np.array([scores], np.float32), names=names)


def boxes(*found: tuple[int, float, tuple[float, float, float, float]], **how: Any) -> Seen:
    return seen(
        scores=np.array([[score for _, score, _ in found]], np.float32),
        labels=np.array([[label for label, _, _ in found]], np.int32),
        boxes=np.array([[box for _, _, box in found]], np.float32).reshape(1, -1, 4),
        **how,
    )


def test_the_likeliest_class_is_the_same_by_its_id():
    assert agreement.of_classes(classes(0.1, 0.8, 0.1), classes(0.2, 0.5, 0.3)) == {"top1": 1}
    assert agreement.of_classes(classes(0.1, 0.8, 0.1), classes(0.6, 0.3, 0.1)) == {"top1": 0}
    turned = classes(0.1, 0.1, 0.8, names=TURNED)
    assert agreement.of_classes(classes(0.1, 0.8, 0.1), turned) == {"top1": 1}


def test_boxes_that_overlap_by_half_with_the_same_label_are_pairs():
    one = boxes((0, 0.9, (0, 0, 0.4, 0.4)), (1, 0.8, (0.5, 0.5, 1, 1)), (2, 0.1, (0, 0, 1, 1)))
    # The first lies a tenth of the picture to the right; the second has another label.
    other = boxes((0, 0.9, (0.1, 0, 0.5, 0.4)), (2, 0.8, (0.5, 0.5, 1, 1)))

    found = agreement.of_boxes(one, other)

    # 0.3 x 0.4 of 0.5 x 0.4 is shared; two of four boxes are in a pair.
    assert found == pytest.approx({"matched": 0.5, "box_iou": 0.6}, abs=1e-6)
    assert agreement.of_boxes(other, one) == pytest.approx(found)


def test_each_box_is_in_one_pair_at_most():
    box = (0.2, 0.2, 0.6, 0.6)

    found = agreement.of_boxes(boxes((0, 0.9, box), (0, 0.8, box)), boxes((0, 0.9, box)))

    assert found == pytest.approx({"matched": 2 / 3, "box_iou": 1.0})


def test_two_networks_that_find_nothing_agree():
    nothing = boxes((0, 0.1, (0, 0, 1, 1)))

    assert agreement.of_boxes(nothing, nothing) == {"matched": 1}
    assert agreement.of_boxes(nothing, boxes((0, 0.9, (0, 0, 1, 1)))) == {"matched": 0}


def test_boxes_are_compared_in_the_picture_whatever_each_network_saw_of_it():
    # A picture of 200 x 100: one network sees all of it, the other its middle half.
    whole = boxes((1, 0.9, (0.25, 0, 0.75, 1)), size_px=(200, 100), form=WHOLE)
    middle = boxes((2, 0.9, (0, 0, 1, 1)), size_px=(200, 100), names=TURNED)

    assert agreement.of_boxes(whole, middle) == pytest.approx({"matched": 1, "box_iou": 1})


def test_maps_agree_as_a_loop_over_the_pixels_says():
    random = np.random.default_rng(0)
    size_px = (75, 45)
    maps = [random.integers(0, 3, (1, form.height, form.width)) for form in (WHOLE, CUT)]
    one = seen(size_px, WHOLE, class_map=maps[0].astype(np.uint8))
    other = seen(size_px, CUT, TURNED, class_map=maps[1].astype(np.uint8))

    found = agreement.of_maps(one, other)

    pairs = [pair for pair in zip(pixels(one), pixels(other), strict=True) if None not in pair]
    assert 0 < len(pairs) < 75 * 45
    equal = sum(a == b for a, b in pairs) / len(pairs)
    ious = [
        sum(a == b == name for a, b in pairs) / sum(name in pair for pair in pairs)
        for name in NAMES.ids
    ]
    assert found == pytest.approx({"pixels": equal, "mean_iou": sum(ious) / 3})


def pixels(one: Seen) -> list[str | None]:
    """Return the label id of every pixel of the picture, row by row; None where it is unseen."""
    rows, columns = one.view.cells()
    width, height = one.view.size_px
    found: list[str | None] = []
    for y in range(height):
        for x in range(width):
            row = sum(edge <= y for edge in rows.edges_px) - 1
            column = sum(edge <= x for edge in columns.edges_px) - 1
            inside = 0 <= row < len(rows.index) and 0 <= column < len(columns.index)
            value = (
                one.outputs["class_map"][0][rows.index[row], columns.index[column]]
                if inside
                else UNSEEN
            )
            found.append(None if value == UNSEEN else one.labels.ids[value])
    return found


def test_a_class_that_only_one_network_knows_is_never_the_same():
    more = labels.inline(["sky", "sea", "land", "ship"])
    one = seen(class_map=np.full((1, 100, 100), 1, np.uint8))
    other = seen(class_map=np.full((1, 100, 100), 3, np.uint8), names=more)

    assert agreement.of_maps(one, one) == {"pixels": 1, "mean_iou": 1}
    assert agreement.of_maps(one, other) == {"pixels": 0, "mean_iou": 0}
    assert agreement.of_maps(other, one) == {"pixels": 0, "mean_iou": 0}


def test_maps_without_a_common_point_are_not_compared():
    unseen = seen(class_map=np.full((1, 100, 100), UNSEEN, np.uint8))

    assert agreement.of_maps(unseen, unseen) == {}
