"""Who is let in, by requests, bytes and foretold time."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest

from service.admission import Admission, Place
from service.errors import Code, GatewayError
from service.metrics import Metrics
from service.settings import Settings

MODEL = "colours"
ANY_S = math.inf


def admission(**settings: object) -> Admission:
    given = {"decode_threads": 1, "queue_limit": 2, "deadline_s": 2, **settings}
    return Admission(Settings.model_validate(given), 1, Metrics("fake"))


def enter(
    stack: contextlib.ExitStack, of: Admission, left_s: float = ANY_S, size: int = 1
) -> Place:
    return stack.enter_context(of.place(MODEL, size, left_s))


def refusal(of: Admission, left_s: float = ANY_S, size: int = 1) -> GatewayError:
    with pytest.raises(GatewayError) as caught, of.place(MODEL, size, left_s):
        pass
    assert caught.value.code is Code.OVERLOADED
    return caught.value


def test_as_many_are_let_in_as_there_are_places_and_a_place_that_is_left_is_free():
    of = admission()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            enter(stack, of)
        assert "4 requests are being answered" in refusal(of).detail
    with contextlib.ExitStack() as stack:
        enter(stack, of)


def test_bytes_are_counted_as_announced_and_then_as_they_came():
    of = admission(max_bytes_in_flight=100)
    with contextlib.ExitStack() as stack:
        first = enter(stack, of, size=90)
        assert "pictures of 90 bytes" in refusal(of, size=11).detail
        first.brings(10)
        enter(stack, of, size=90)


def test_a_body_larger_than_the_limit_is_let_in_alone():
    of = admission(max_bytes_in_flight=100)
    with of.place(MODEL, 1000, ANY_S):
        refusal(of, size=1)


def test_who_would_be_answered_too_late_is_refused_at_once_with_the_time_to_wait():
    of = admission(deadline_s=10)
    of.estimates.decoded(1e6, 1.5)
    of.estimates.inferred(MODEL, 1, 2.0)
    with contextlib.ExitStack() as stack:
        enter(stack, of)
        # 2 s of waiting for the network before its own 3.5 s.
        enter(stack, of, left_s=7)
        error = refusal(of, left_s=7)
        assert error.retry_after_s == 4
        enter(stack, of)
        assert "an answer would take about 9.5 s, and 10 s are left" in refusal(of).detail


def test_who_is_alone_is_let_in_whatever_was_foretold():
    of = admission(deadline_s=0.1)
    of.estimates.inferred(MODEL, 1, 60.0)
    with of.place(MODEL, 1, 0.01) as place:
        of.require_time(place.parts[0], 0.01)


def test_a_wrong_estimate_does_not_keep_a_network_s_requests_out_for_ever():
    of = admission(deadline_s=2)
    of.estimates.inferred(MODEL, 1, 1.9)
    with of.place("another", 1, ANY_S):
        refusal(of)
        tries = itertools.takewhile(lambda _: not is_let_in(of), range(100))
        assert len(list(tries)) < 20
    # What fits by itself is refused for the others, and says nothing of the estimate.
    with contextlib.ExitStack() as stack:
        enter(stack, of)
        told = [refusal(of, left_s=1).detail for _ in range(50)]
    assert len(set(told)) == 1


def is_let_in(of: Admission) -> bool:
    with contextlib.suppress(GatewayError), of.place(MODEL, 1, ANY_S):
        return True
    return False


def test_a_picture_that_turns_out_large_is_refused_once_its_size_is_known():
    of = admission(deadline_s=1)
    of.estimates.decoded(1e6, 0.1)
    with contextlib.ExitStack() as stack:
        enter(stack, of)
        [part] = enter(stack, of).parts
        part.expect(of.estimates.decode_s(20e6), part.infer_s)
        assert of.wait_s() > 1
        with pytest.raises(GatewayError, match=r"about 1\.8 s") as caught:
            of.require_time(part, ANY_S)
        # Its own part is no reason to come later.
        assert caught.value.retry_after_s == 1


def test_the_estimate_follows_what_is_measured():
    of = admission()
    for _ in range(100):
        of.estimates.inferred(MODEL, 2, 0.4)
    assert of.expected_s(MODEL)[1] == pytest.approx(0.2)
    for _ in range(100):
        of.estimates.inferred(MODEL, 1, 0.05)
    assert of.expected_s(MODEL)[1] == pytest.approx(0.05, rel=0.01)


def test_work_that_is_done_no_longer_counts():
    of = admission()
    of.estimates.decoded(1e6, 1.0)
    of.estimates.inferred(MODEL, 1, 0.5)
    with of.place(MODEL, 1, ANY_S) as place:
        assert of.wait_s() == 1.0
        place.parts[0].is_decoded()
        assert of.wait_s() == 0.5
        place.parts[0].is_done()
        assert of.wait_s() == 0.0
        place.expect(3, 1.0, 0.5)
        assert of.wait_s() == 3.0
    assert of.wait_s() == 0.0


def test_refusals_are_counted_by_their_reason():
    metrics = Metrics("fake")
    of = Admission(Settings(decode_threads=1, queue_limit=0, max_bytes_in_flight=5), 1, metrics)
    with of.place(MODEL, 5, ANY_S):
        refusal(of, size=1)
        text = metrics.render().decode()
        assert 'gpusq_sheds_total{reason="bytes"} 1.0' in text
        assert "gpusq_in_flight 1.0" in text
        assert "gpusq_in_flight_bytes 5.0" in text
    assert "gpusq_in_flight_bytes 0.0" in metrics.render().decode()
