"""Who is let in: a bound on requests, on bytes, and on the time that they would wait.

What is let in is answered; everybody else hears at once when to come again. The wait is foretold
from what pictures and networks took lately, so the bound follows the machine and the traffic:
slower networks and larger pictures fill the same time sooner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from service.errors import Code, GatewayError
from service.load import Estimates, Load, Part
from service.metrics import Metrics
from service.settings import Settings

# Foretold times are means, and half of all requests take longer.
_MARGIN: Final = 0.8


class Place:
    """What one request that was let in still costs.

    Args:
        load: Of which it is a part.
        most_bytes: How many bytes it brings at most.
    """

    def __init__(self, load: Load, most_bytes: int) -> None:
        self._load = load
        self._bytes = 0
        self.parts: list[Part] = []
        self.brings(most_bytes)

    def brings(self, count: int) -> None:
        """Say how many bytes it brought."""
        self._load.bytes += count - self._bytes
        self._bytes = count

    def expect(self, pictures: int, decode_s: float, infer_s: float) -> None:
        """Say how many pictures came, and what each will cost."""
        for part in self.parts:
            part.is_done()
        self.parts = [Part(self._load, decode_s, infer_s) for _ in range(pictures)]

    def leave(self) -> None:
        """Take everything back."""
        self.brings(0)
        for part in self.parts:
            part.is_done()


class Admission:
    """Lets requests in or refuses them. For one thread, that of the event loop.

    Args:
        settings: The limits.
        concurrency: How many calls of the executor run at once.
        metrics: Hears who was refused, and how much is under way.
    """

    def __init__(self, settings: Settings, concurrency: int, metrics: Metrics) -> None:
        self.estimates = Estimates()
        self._load = Load()
        self._metrics = metrics
        self._concurrency = concurrency
        self._threads = settings.decode_threads
        self._deadline_s = settings.deadline_s
        self.most_requests = settings.decode_threads + concurrency + settings.queue_limit
        self._most_bytes = settings.max_bytes_in_flight

    @contextmanager
    def place(self, model: str, most_bytes: int, left_s: float) -> Iterator[Place]:
        """Hold one of the places.

        Args:
            model: Which network will be asked.
            most_bytes: How many bytes the request brings at most.
            left_s: How long whoever asks waits; may be infinite.

        Raises:
            GatewayError: There is no place for it now.
        """
        own_s = self.expected_s(model)
        self._require_place(most_bytes)
        try:
            self._require_time(left_s, sum(own_s), self.wait_s(), alone=not self._load.requests)
        except GatewayError:
            if sum(own_s) > _MARGIN * self._deadline_s:
                self.estimates.doubt(model)
            raise
        place = Place(self._load, most_bytes)
        place.expect(1, *own_s)
        self._load.requests += 1
        self._show()
        try:
            yield place
        finally:
            place.leave()
            self._load.requests -= 1
            self._show()

    def expected_s(self, model: str) -> tuple[float, float]:
        """Return what decoding one picture takes, and what a network takes for it."""
        return self.estimates.decode_s(), self.estimates.infer_s(model)

    def require_time(self, part: Part, left_s: float) -> None:
        """Refuse a picture that, now that its size is known, would not be answered in time.

        Raises:
            GatewayError: Its sender should come again later.
        """
        own_s = part.decode_s + part.infer_s
        alone = self._load.requests == 1
        self._require_time(left_s, own_s, self.wait_s(part), alone=alone)

    def wait_s(self, part: Part | None = None) -> float:
        """Return how long one would wait now until its turn comes, apart from its own part."""
        decode_s = self._load.decode_s - (part.decode_s if part else 0.0)
        infer_s = self._load.infer_s - (part.infer_s if part else 0.0)
        return max(decode_s / self._threads, infer_s / self._concurrency, 0.0)

    @property
    def is_busy(self) -> bool:
        """Whether pictures wait for one another to be decoded."""
        return self._load.requests > self._threads

    @property
    def is_idle(self) -> bool:
        """Whether a network could be asked now without making a request wait for it."""
        return self._load.requests < self._concurrency

    def require_room(self) -> None:
        """Refuse whatever comes while as many requests are being answered as may be.

        Raises:
            GatewayError: Its sender should come again later.
        """
        requests = self._load.requests
        if requests >= self.most_requests:
            raise self._refusal("requests", f"{requests} requests are being answered")

    def _require_place(self, most_bytes: int) -> None:
        self.require_room()
        load = self._load
        # One alone fits whatever the limit, or it never would.
        if load.requests and load.bytes + most_bytes > self._most_bytes:
            raise self._refusal("bytes", f"pictures of {load.bytes:,} bytes are being answered")

    def _require_time(self, left_s: float, own_s: float, wait_s: float, *, alone: bool) -> None:
        left_s, takes_s = min(left_s, self._deadline_s), wait_s + own_s
        # Whoever is alone is let in whatever was foretold: only measuring mends a wrong estimate.
        if not alone and takes_s > _MARGIN * left_s:
            raise self._refusal(
                "time",
                f"an answer would take about {takes_s:.2g} s, and {left_s:.2g} s are left",
                wait_s,
            )

    def _refusal(self, reason: str, why: str, wait_s: float | None = None) -> GatewayError:
        self._metrics.shed(reason)
        retry_after_s = max(1, math.ceil(self.wait_s() if wait_s is None else wait_s))
        return GatewayError(
            Code.OVERLOADED,
            f"The service is busy: {why}. Try again in {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )

    def _show(self) -> None:
        self._metrics.in_flight.set(self._load.requests)
        self._metrics.bytes_in_flight.set(self._load.bytes)
