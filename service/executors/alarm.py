"""A pause that can be cut short."""

from __future__ import annotations

import asyncio
from typing import Final

# Many requests fail at once: one look is enough for them all.
_TOGETHER_S: Final = 0.1


class Alarm:
    """Wakes whoever looks at something from time to time, when it had better look now."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Cut the pause short."""
        self._rung.set()

    async def pause(self, seconds: float) -> None:
        """Return after some seconds, or soon after a ring."""
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the event.
        waking = asyncio.create_task(self._rung.wait())
        try:
            if (await asyncio.wait([waking], timeout=seconds))[0]:
                await asyncio.sleep(min(seconds, _TOGETHER_S))
        finally:
            waking.cancel()
        self._rung.clear()
