"""JSON into answers: what is taken, and what is said of the rest."""

from __future__ import annotations

import re
from typing import Any

import pytest

import gpusq
from gpusq import calls, reading, rle

AREA = {"label_id": "3", "label": "sky", "index": 2, "area_px": 12, "share": 1}
SEGMENT: dict[str, Any] = {
    "model": "m",
    "version": 1,
    "image": {"width": 4, "height": 3},
    "timings_ms": {"total": 2},
    "request_id": "id",
    "classes": [AREA],
    "unseen_px": 0,
    "class_map": "iVBORw==",
}


def test_numbers_lists_and_bytes_have_the_types_that_are_declared():
    answer = reading.read(gpusq.SegmentAnswer, SEGMENT)

    assert answer.classes == (gpusq.Area("3", "sky", 2, 12, 1.0),)
    assert type(answer.classes[0].share) is float
    assert answer.class_map == b"\x89PNG"


def test_what_is_read_is_written_the_same():
    assert reading.plain(reading.read(gpusq.SegmentAnswer, SEGMENT)) == SEGMENT


def test_fields_of_a_newer_service_are_left_out_and_null_is_absence():
    newer = {**SEGMENT, "colour": "blue", "class_map": None, "image": {**SEGMENT["image"], "d": 3}}

    answer = reading.read(gpusq.SegmentAnswer, newer)

    assert answer.class_map is None
    assert answer.image == gpusq.Size(4, 3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": "1"}, "Expected int in version, got '1'"),
        ({"version": True}, "Expected int in version, got True"),
        ({"model": None}, "Expected str in model, got None"),
        ({"image": [4, 3]}, "Expected Size in image"),
        ({"image": {"width": 4}}, "Expected 'height' in image, it is not there"),
        ({"classes": {}}, "in classes, got {}"),
        ({"classes": [{**AREA, "share": "all"}]}, "Expected float in share, got 'all'"),
        ({"classes": [{**AREA, "rle": {"size": [3], "counts": "0"}}]}, "Expected 2 values in size"),
        ({"class_map": "no base64"}, "Expected base64 in class_map"),
        ({"timings_ms": {"total": "2"}}, "Expected float in timings_ms"),
        ({"model": {"name": "x" * 1000}}, "got {'name': 'xxx"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changed, said):
    with pytest.raises(gpusq.AnswerError, match=re.escape(said)) as caught:
        reading.read(gpusq.SegmentAnswer, {**SEGMENT, **changed})

    assert len(str(caught.value)) < 200


def test_a_number_too_large_for_a_float_is_said():
    with pytest.raises(gpusq.AnswerError, match="Expected float in timings_ms"):
        reading.read(gpusq.SegmentAnswer, {**SEGMENT, "timings_ms": {"total": 10**400}})


@pytest.mark.parametrize("status", [200, 429])
def test_json_without_a_bottom_is_no_answer_of_the_service(status: int):
    call = calls.classify(b"", None, None)
    reply = calls.Reply(status, {}, b"[" * 1_000_000)

    if call.is_answer(reply):
        with pytest.raises(gpusq.AnswerError, match="Expected JSON as the service has it"):
            call.read(reply)
    else:
        assert calls.problem(reply)[0].code == "too_many_requests"


def test_timings_of_a_refusal_that_are_no_numbers_are_left_out():
    body = b'{"code": "overloaded", "detail": "Busy.", "timings_ms": {"total": 1%s}}' % (b"0" * 400)

    found, ours = calls.problem(calls.Reply(429, {}, body))

    assert ours
    assert (found.code, found.timings_ms) == ("overloaded", {})


def test_a_run_that_no_picture_has_is_refused_at_once():
    with pytest.raises(gpusq.AnswerError, match="over a million million pixels"):
        rle.mask("o" * 100_000, (10, 10))
