"""Waiting for something with an end to it."""

import asyncio

import pytest

from service.waiting import within


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
