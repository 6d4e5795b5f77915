"""The steps of a call, one by one: nothing is sent, nobody sleeps."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest

import gpusq
from gpusq import calls
from gpusq.calls import Reply
from gpusq.exchange import Done, Lost, Policy, Send, Wait, exchange

CALL = calls.ready()
JSON = {"content-type": "application/json"}
READY = Reply(200, JSON, b'{"ready": true, "models": {}}')


def refused(status: int = 429, **headers: str) -> Reply:
    body = json.dumps({"code": "overloaded", "detail": "Busy."}).encode()
    return Reply(status, {name.replace("_", "-"): said for name, said in headers.items()}, body)


def waits_s(*said: Reply | Lost, timeout_s: float = 1000.0, retries: int = 20) -> list[float]:
    """Return the waits between attempts that come to these, and then to an answer."""
    steps = exchange(CALL, Policy(timeout_s, retries))
    found = []
    for outcome in said:
        assert isinstance(next(steps), Send)
        step = steps.send(outcome)
        assert isinstance(step, Wait)
        found.append(step.seconds)
    assert isinstance(next(steps), Send)
    assert steps.send(READY) == Done(gpusq.Readiness(ready=True, models={}))
    return found


@pytest.mark.parametrize("seconds", ["0", "1", "17"])
def test_the_service_is_asked_again_just_when_it_says(seconds):
    assert waits_s(refused(retry_after=seconds)) == [float(seconds)]


def test_a_date_counts_from_the_answers_own_clock():
    # An hour behind the clock of this machine.
    said = refused(
        date="Wed, 25 Nov 2026 10:00:00 GMT", retry_after="Wed, 25 Nov 2026 10:00:07 GMT"
    )

    assert waits_s(said) == [7.0]


def test_a_date_beside_no_other_counts_from_now(monkeypatch):
    now_s = 1_000_000_000.25
    monkeypatch.setattr("time.time", lambda: now_s)

    assert waits_s(refused(retry_after=formatdate(1_000_000_005, usegmt=True))) == [4.75]


def test_a_date_that_has_passed_is_no_wait():
    assert waits_s(refused(retry_after=formatdate(0, usegmt=True))) == [0.0]


@pytest.mark.parametrize("said", ["soon", "-1", "1e2", "٣", "Wed, 99 Nov 2026 10:00:00 GMT", ""])
def test_a_retry_after_that_means_nothing_is_none(said):
    # Of a proxy: the service's own refusals come back only where they say when.
    (wait_s,) = waits_s(Reply(503, {"retry-after": said}, b"<html>"))

    assert wait_s <= 0.2


def test_waits_grow_to_a_limit_and_are_spread_over_all_of_it():
    rounds = [waits_s(*[Lost("gone")] * 8) for _ in range(400)]

    for attempt, waits in enumerate(zip(*rounds, strict=True)):
        longest_s = min(5.0, 0.2 * 2**attempt)
        assert 0 <= min(waits) < 0.05 * longest_s
        assert 0.95 * longest_s < max(waits) <= longest_s
        # Uniform: 400 draws lie within 4 sigma of the middle, 0.5 ± 4 / sqrt(12 * 400).
        assert abs(sum(waits) / len(waits) / longest_s - 0.5) < 0.06


def test_no_wait_reaches_the_deadline():
    steps = exchange(CALL, Policy(timeout_s=10, retries=5))
    next(steps)

    with pytest.raises(gpusq.RequestRefusedError) as caught:
        steps.send(refused(retry_after="10"))

    assert caught.value.retry_after_s == 10


def test_the_last_attempt_is_not_followed_by_a_wait():
    steps = exchange(CALL, Policy(timeout_s=10, retries=0))
    next(steps)

    with pytest.raises(gpusq.ConnectionFailedError, match="gone"):
        steps.send(Lost("gone"))


def test_a_deadline_that_passes_while_waiting_tells_of_the_refusal_before(monkeypatch):
    steps = exchange(CALL, Policy(timeout_s=10, retries=5))
    next(steps)
    steps.send(refused(retry_after="9"))
    from_now_s = 1e9
    monkeypatch.setattr("time.monotonic", lambda: from_now_s)

    with pytest.raises(gpusq.OutOfTimeError) as caught:
        next(steps)

    assert isinstance(caught.value.__cause__, gpusq.RequestRefusedError)


def test_a_broken_certificate_is_not_tried_again():
    steps = exchange(CALL, Policy(timeout_s=10, retries=5))
    next(steps)

    with pytest.raises(gpusq.ConnectionFailedError):
        steps.send(Lost("certificate verify failed", passing=False))


def test_a_service_that_is_not_ready_says_so_without_an_error():
    steps = exchange(CALL, Policy(timeout_s=10, retries=5))
    next(steps)

    done = steps.send(Reply(503, JSON, b'{"ready": false, "models": {"a": "unavailable"}}'))

    assert done == Done(gpusq.Readiness(ready=False, models={"a": "unavailable"}))
