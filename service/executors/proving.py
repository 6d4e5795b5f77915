"""Let networks show that they answer: readiness is an inference, not a flag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from service.errors import ModelError
from service.executors.alarm import Alarm
from service.executors.loading import Loaded
from service.executors.shelf import Shelf

# No request may take longer either.
HUNG_S: Final = 30.0
# A proof is followed by a pause so many times as long: proofs take a hundredth of the time at most.
_PAUSE: Final = 100

# Runs a function on the thread of the networks.
Run = Callable[[Callable[[], None]], Awaitable[None]]


class Proofs:
    """Asks each network for a black picture, unless requests have shown that it answers.

    Args:
        shelf: The networks.
        run: Runs one of them.
        tell: Called when one has failed, or come back.
        check_s: Shortest time between two proofs of one network.
        hung_s: After how long without any answer the networks count as hung.
    """

    def __init__(
        self,
        shelf: Shelf,
        run: Run,
        tell: Callable[[], None],
        *,
        check_s: float,
        hung_s: float = HUNG_S,
    ) -> None:
        self.down: str | None = None
        self._shelf = shelf
        self._run = run
        self._tell = tell
        self._check_s = check_s
        self._hung_s = hung_s
        self._alarm = Alarm()
        self._answered_s = 0.0

    def answered(self, loaded: Loaded) -> None:
        """Hear that a network has answered a request."""
        self._answered_s = loaded.proved_s = time.monotonic()

    def failed(self, loaded: Loaded) -> None:
        """Hear that a network failed for a request; a black picture shows whether it is broken."""
        loaded.suspect = True
        self._alarm.ring()

    async def watch(self) -> None:
        """Prove networks until cancelled."""
        while True:
            await self._alarm.pause(self._check_s)
            for name in list(self._shelf.loaded):
                # Others were proved meanwhile; it may have been replaced, and closed.
                loaded = self._shelf.loaded.get(name)
                if loaded is not None and self._is_due(loaded):
                    await self._prove(loaded)

    def _is_due(self, loaded: Loaded) -> bool:
        pause_s = max(self._check_s, _PAUSE * loaded.proof_took_s)
        return loaded.suspect or time.monotonic() - loaded.proved_s >= pause_s

    async def _prove(self, loaded: Loaded) -> None:
        loaded.suspect = False
        proof = asyncio.ensure_future(self._run(loaded.prove))
        try:
            await self._not_for_ever(proof)
            await proof
        except ModelError as error:
            loaded.fault = str(error)
        else:
            self.answered(loaded)
            loaded.fault = None
        finally:
            proof.cancel()
        self._tell()

    async def _not_for_ever(self, proof: asyncio.Future[None]) -> None:
        """Wait for a proof; say so where it does not come and nothing else is answered either."""
        began_s = time.monotonic()
        while not (await asyncio.wait([proof], timeout=self._hung_s))[0]:
            # Busy is not broken: requests were answered while this one waited.
            silent_s = time.monotonic() - max(began_s, self._answered_s)
            if silent_s >= self._hung_s and self.down is None:
                self.down = (
                    f"The networks have not answered for {self._hung_s:g} s. Whoever runs the "
                    "service looks into its log, and restarts it."
                )
                self._tell()
        self.down = None
