"""Run what blocks for seconds, or for ever, in a thread that holds up neither loop nor exit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Return what a function returns, from a thread of its own.

    A cancelled call leaves the thread to itself: loading a network cannot be interrupted, and a
    network file system that hangs would keep a pool's thread, and the process with it.

    Raises:
        Exception: Whatever the function raises.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type] # without an error it is a T

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as raised:  # noqa: BLE001 - handed to whoever waits
            error = raised
        # The loop may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await outcome
