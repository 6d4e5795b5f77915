"""Wait for something until it is no longer wanted: without a task of its own for each wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupt:
    """Ends what the task that made it awaits, when something else happens first.

    What :func:`asyncio.timeout` is for time, which Python 3.10 lacks, for any event.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - whoever awaits is a task
        self._task = task
        self._cancelling = _cancelling(task)
        self._came = False

    def come(self) -> None:
        """End it."""
        if not self._came:
            self._came = True
            self._task.cancel()

    def caused(self) -> bool:
        """Say, of a cancellation that was just caught, whether it was this and nothing else."""
        if not self._came:
            return False
        uncancel = getattr(self._task, "uncancel", None)
        return uncancel is None or uncancel() <= self._cancelling


async def within(timeout_s: float, work: Awaitable[T]) -> T:
    """Return what ``work`` gives, or end it once the time is over.

    Unlike :func:`asyncio.wait_for` before Python 3.12, it loses no cancellation that comes in the
    same moment as the result: a client that sends a picture and leaves would else be served to
    the end.

    Raises:
        asyncio.TimeoutError: It took longer.
    """
    late = Interrupt()
    timer = asyncio.get_running_loop().call_later(max(timeout_s, 0.0), late.come)
    try:
        return await work
    except asyncio.CancelledError:
        if late.caused():
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what all of several give; a fault in one ends the others, which nobody awaits then."""
    every = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*every)
    finally:
        for one in every:
            one.cancel()
        await asyncio.wait(every)


def _cancelling(task: asyncio.Task[object]) -> int:
    # Python 3.10 does not count.
    return int(task.cancelling()) if hasattr(task, "cancelling") else 0
