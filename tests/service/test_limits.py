"""Rates and quotas, on clocks that the tests turn."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.security.limits import MOST_CLIENTS, Attempts, Bucket, Day

NOON = datetime(2026, 3, 28, 12, 0, 0, 500_000, tzinfo=timezone.utc)


def test_a_bucket_lets_a_burst_through_then_one_at_a_time():
    bucket = Bucket(rate=2, burst=3, now_s=0)

    assert [bucket.wait_s(0) for _ in range(4)] == [0, 0, 0, 1]
    assert [bucket.wait_s(0.5), bucket.wait_s(0.5)] == [0, 1]


def test_a_wait_is_rounded_up_and_long_enough():
    bucket = Bucket(rate=0.4, burst=1, now_s=0)
    bucket.wait_s(0)

    assert bucket.wait_s(0) == 3
    assert bucket.wait_s(2.4) == 1
    assert bucket.wait_s(2.6) == 0


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(rate=1, burst=1, now_s=100)
    bucket.wait_s(100)

    assert bucket.wait_s(50) > 0
    assert bucket.wait_s(50.9) > 0


@given(
    rate=st.sampled_from([0.25, 0.5, 1.0, 4.0]),
    burst=st.integers(1, 5),
    # Quarters of a second, which floats hold without error.
    pauses=st.lists(st.integers(0, 12), max_size=60),
)
def test_no_stretch_of_time_lets_more_through_than_burst_and_rate(
    rate: float, burst: int, pauses: list[int]
):
    bucket, now_s, through = Bucket(rate, burst, 0), 0.0, []
    for pause in pauses:
        now_s += pause / 4
        if bucket.wait_s(now_s) == 0:
            through.append(now_s)

    for first, begin in enumerate(through):
        for last, end in enumerate(through[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin)


@given(rate=st.floats(0.01, 1000), burst=st.integers(1, 5), asked=st.integers(0, 20))
def test_whoever_waits_as_long_as_was_said_gets_through(rate: float, burst: int, asked: int):
    bucket = Bucket(rate, burst, 0)
    waits = [bucket.wait_s(0) for _ in range(burst + asked + 1)]

    assert bucket.wait_s(waits[-1]) == 0


def test_a_day_ends_at_midnight_utc():
    day = Day()
    # 23:59:58.5 in UTC, already tomorrow in Tokyo.
    late = datetime(2026, 3, 29, 8, 59, 58, 500_000, tzinfo=timezone(timedelta(hours=9)))

    assert [day.wait_s(1, late), day.wait_s(1, late)] == [0, 2]
    assert day.wait_s(1, late + timedelta(seconds=2)) == 0


def test_a_clock_that_is_set_back_gives_no_second_day():
    day = Day()
    day.wait_s(1, NOON)

    assert day.wait_s(1, NOON - timedelta(days=1)) > 0


def test_a_quota_that_is_raised_counts_from_what_was_used():
    day = Day()

    assert [day.wait_s(quota, NOON) > 0 for quota in (1, 1, 2, 2)] == [False, True, False, True]


def test_failures_are_bounded_by_address_and_addresses_are_bounded():
    attempts = Attempts(rate=1, burst=2, clock=lambda: 0.0)

    assert [attempts.wait_s("a") for _ in range(3)] == [0, 0, 1]
    assert attempts.wait_s("b") == 0
    for number in range(MOST_CLIENTS + 10):
        attempts.wait_s(str(number))
    assert len(attempts) == MOST_CLIENTS


@pytest.mark.parametrize("quota", [1, 3])
def test_a_quota_is_used_to_the_last(quota: int):
    day = Day()

    assert sum(day.wait_s(quota, NOON) == 0 for _ in range(10)) == quota
