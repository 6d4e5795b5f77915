"""Times calls of several contenders in turns, so that what else a machine does hits all of them.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Burst:
    """Calls of one contender in a row.

    Args:
        counted: Whose times count.
        warm_up: Before them, until caches and clocks are as they are under load.
    """

    counted: int
    warm_up: int


class Timed(Protocol):
    """A network that is ready to run."""

    def time_ms(self, batch: int, calls: int) -> list[float]:
        """Call it again and again, and return how long each call took.

        Args:
            batch: Pictures a call.
            calls: In a row.
        """


def in_turns(
    contenders: Mapping[str, Timed], batch: int, calls: int, burst: Burst
) -> dict[str, list[float]]:
    """Time contenders in bursts of a few calls, one burst of each after the other.

    In bursts because threads of one runtime spin for a while after a call and would slow the
    next one, and because a processor's clock follows its load.

    Args:
        contenders: By name.
        batch: Pictures a call.
        calls: Counted calls of each, rounded up to whole bursts.
        burst: Calls in a row.

    Returns:
        Milliseconds of each counted call, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _turn in range(math.ceil(calls / burst.counted)):
        for name, contender in contenders.items():
            taken = contender.time_ms(batch, burst.warm_up + burst.counted)
            times[name] += taken[burst.warm_up :]
    return times


def percentile(times: list[float], share: float) -> float:
    """Return the time within which this share of the calls was done.

    >>> percentile([3.0, 1.0, 2.0, 5.0], 0.5)
    2.0
    >>> percentile([3.0, 1.0, 2.0, 5.0], 0.99)
    5.0
    """
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]
