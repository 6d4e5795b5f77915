"""Waiting for something with an end to it."""

import asyncio
import sys

import pytest

from service.waiting import Interrupt, within


def test_what_comes_in_time_is_returned_and_what_fails_fails():
    async def gives():
        await asyncio.sleep(0)
        return 3

    async def fails():
        raise ZeroDivisionError

    assert asyncio.run(within(60, gives())) == 3
    with pytest.raises(ZeroDivisionError):
        asyncio.run(within(60, fails()))


@pytest.mark.parametrize("timeout_s", [0.01, 0, -1])
def test_what_takes_longer_is_over_when_the_time_is(timeout_s):
    ended = []

    async def endless():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def scenario():
        working = asyncio.ensure_future(endless())
        await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await within(timeout_s, working)
        assert ended

    asyncio.run(scenario())


@pytest.mark.parametrize("steps", range(6))
def test_a_cancellation_that_comes_beside_the_result_is_not_lost(steps):
    async def scenario():
        came = asyncio.Event()

        async def asking():
            await within(60, came.wait())
            await asyncio.Event().wait()

        task = asyncio.ensure_future(asking())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        came.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()

    asyncio.run(scenario())


def test_of_two_ends_in_the_same_moment_the_outer_one_is_not_lost():
    async def scenario():
        gone = Interrupt()
        asyncio.get_running_loop().call_later(0.01, gone.come)
        try:
            await within(0.01, asyncio.Event().wait())
        except asyncio.CancelledError:
            return gone.caused()
        except asyncio.TimeoutError:
            # Python 3.10 does not tell two cancellations from one.
            return sys.version_info < (3, 11)

    assert asyncio.run(scenario())


def test_an_interrupt_that_did_not_come_caused_nothing():
    async def scenario():
        never = Interrupt()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not never.caused()
            raise

    async def outside():
        task = asyncio.ensure_future(scenario())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(outside())
