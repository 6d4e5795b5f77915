"""The time of one request: where it went, stage by stage, and when nobody waits any more."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.metrics import STAGES


class Span:
    """One stretch of time in a stage; it runs until it is ended."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        # By time.perf_counter(); None while it runs.
        self.started_s = time.perf_counter()
        self.ended_s: float | None = None

    def end(self) -> None:
        """Stop the clock."""
        self.ended_s = time.perf_counter()

    def seconds(self) -> float:
        """Return its length, so far if it still runs."""
        return (self.ended_s or time.perf_counter()) - self.started_s


class Ledger:
    """The time of one request.

    Stages may begin in one thread and end in another; it can be read while they run, which is how
    an answer after the deadline says what took so long.

    Args:
        deadline_s: How long whoever asks waits, counted from now; None where they did not say.
    """

    def __init__(self, deadline_s: float | None = None) -> None:
        self._started = time.perf_counter()
        self._ends = math.inf if deadline_s is None else self._started + deadline_s
        self._spans: list[Span] = []

    def branch(self) -> Ledger:
        """Return the time of one of several pictures: shared until now, its own from now on."""
        own = Ledger()
        own._started, own._ends, own._spans = self._started, self._ends, list(self._spans)
        return own

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every stretch of time that was spent in a stage, in the order in which they began."""
        return tuple(self._spans)

    def limit(self, deadline_s: float) -> None:
        """End the request this long from now, unless it ends earlier."""
        self._ends = min(self._ends, time.perf_counter() + deadline_s)

    def left_s(self) -> float:
        """Return how long somebody still waits; infinite while nothing limits it."""
        return self._ends - time.perf_counter()

    def allowed_s(self) -> float:
        """Return how long the request may take in all, as it stands."""
        return self._ends - self._started

    def begin(self, stage: str) -> Span:
        """Enter a stage; whoever leaves it ends the span."""
        span = Span(stage)
        self._spans.append(span)
        return span

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Add the time inside the block to one stage."""
        span = self.begin(name)
        try:
            yield span
        finally:
            span.end()

    def stages_s(self) -> dict[str, float]:
        """Return the seconds of every stage that was reached, in the order of :data:`STAGES`."""
        sums: dict[str, float] = {}
        for span in self.spans:
            sums[span.stage] = sums.get(span.stage, 0.0) + span.seconds()
        return {name: sums[name] for name in STAGES if name in sums}

    def total_s(self) -> float:
        """Return the seconds since the request began."""
        return time.perf_counter() - self._started

    def timings_ms(self) -> dict[str, float]:
        """Return the milliseconds of every stage that was reached, and `total`."""
        stages_ms = {name: round(1000 * seconds, 3) for name, seconds in self.stages_s().items()}
        return {**stages_ms, "total": round(1000 * self.total_s(), 3)}


def server_timing(timings_ms: Mapping[str, float]) -> str:
    """Say the milliseconds of each stage as browsers' developer tools read them.

    >>> server_timing({"decode": 1.5, "total": 2.0})
    'decode;dur=1.5, total;dur=2.0'
    """
    return ", ".join(f"{stage};dur={ms}" for stage, ms in timings_ms.items())
