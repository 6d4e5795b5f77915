"""Run what blocks for seconds, or for ever, in a thread that holds up neither loop nor exit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_NAME: Final = "aside"


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

    threading.Thread(target=run, name=_NAME, daemon=True).start()
    return await outcome


def finish(timeout_s: float) -> bool:
    """Wait for the threads that cancelled calls have left; return whether they have ended.

    A thread that is in native code when the interpreter ends may abort the process: ONNX Runtime
    does, while it loads.
    """
    end_s = time.monotonic() + timeout_s
    threads = [thread for thread in threading.enumerate() if thread.name == _NAME]
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
