"""Answers as text."""

from __future__ import annotations

from typing import Any

import gpusq
from gpusq import table


def about(kind: type, **result: Any) -> Any:
    return kind("m", 3, gpusq.Size(640, 480), {"total": 20.44}, "id", **result)


def test_classes_stand_below_each_other_with_their_ids():
    predictions = (
        gpusq.Prediction("n02123045", "tabby, tabby cat", 281, 0.7149),
        gpusq.Prediction("n1", "猫", 282, 0.12),
    )

    text = table.text("cat.jpg", about(gpusq.ClassifyAnswer, predictions=predictions))

    assert text.splitlines() == [
        "cat.jpg: 640 x 480, m 3, 20.4 ms",
        "  score  label             id",
        "  0.715  tabby, tabby cat  n02123045",
        "  0.120  猫                n1",
    ]


def test_boxes_have_their_sides_in_columns():
    found = (
        gpusq.Detection("18", "dog", 16, 0.93, gpusq.Box(104.5, 8.25, 410.0, 371.62)),
        gpusq.Detection("1", "person", 0, 0.4, gpusq.Box(0.0, 0.0, 1.0, 2.0)),
    )

    text = table.text("a.png", about(gpusq.DetectAnswer, detections=found))

    assert text.splitlines()[1:] == [
        "  score  label   id   left  top  right  bottom",
        "  0.930  dog     18  104.5  8.2  410.0   371.6",
        "  0.400  person  1     0.0  0.0    1.0     2.0",
    ]


def test_areas_have_their_share_and_what_was_not_seen_is_one_too():
    areas = (gpusq.Area("3", "sky", 2, 153_600, 0.5),)

    text = table.text("a.png", about(gpusq.SegmentAnswer, classes=areas, unseen_px=30_720))

    assert text.splitlines()[1:] == [
        "  share  pixels  label     id",
        "  50.0%  153600  sky       3",
        "  10.0%   30720  not seen",
    ]


def test_a_picture_without_anything_says_so():
    text = table.text("a.png", about(gpusq.DetectAnswer, detections=()))

    assert text.splitlines()[1:] == ["  nothing found"]


def test_no_name_and_no_label_moves_the_cursor():
    predictions = (gpusq.Prediction("n\r1", "tab\tby\x1b[2J", 281, 0.7),)

    text = table.text("cat\n\udcff.jpg", about(gpusq.ClassifyAnswer, predictions=predictions))

    assert text.splitlines() == [
        r"cat\n\udcff.jpg: 640 x 480, m 3, 20.4 ms",
        "  score  label           id",
        r"  0.700  tab\tby\x1b[2J  n\r1",
    ]
