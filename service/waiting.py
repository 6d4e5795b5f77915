"""Wait for something, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def within(timeout_s: float, work: Awaitable[T]) -> T:
    """Return what ``work`` gives, or end it once the time is over.

    Unlike :func:`asyncio.wait_for` before Python 3.12, it loses no cancellation that comes in the
    same moment as the result: a client that sends a picture and leaves would else be served to
    the end.

    Raises:
        asyncio.TimeoutError: It took longer.
    """
    working = asyncio.ensure_future(work)
    try:
        if (await asyncio.wait((working,), timeout=max(timeout_s, 0.0)))[0]:
            return working.result()
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
        if not working.cancelled():
            # Else it would be logged as one that nobody heard of.
            working.exception()
    raise asyncio.TimeoutError


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what all of several give; a fault in one ends the others, which nobody awaits then."""
    every = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*every)
    finally:
        for one in every:
            one.cancel()
        await asyncio.wait(every)
