"""Times calls of several contenders in turns, so that what else a machine does hits all of them.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Protocol

# Calls in a row that do not count: a processor, a cache and a clock are warm after them.
WARM_UP: Final = 2


class Timed(Protocol):
    """A network that is ready to run."""

    def time_ms(self, batch: int, calls: int) -> list[float]:
        """Call it again and again, and return how long each call took.

        Args:
            batch: Pictures a call.
            calls: In a row.
        """


def in_turns(
    contenders: Mapping[str, Timed], batch: int, calls: int, burst: int
) -> dict[str, list[float]]:
    """Time contenders in bursts of a few calls, one burst of each after the other.

    In bursts because threads of one runtime spin for a while after a call and would slow the
    next one, and because a processor's clock follows its load.

    Args:
        contenders: By name.
        batch: Pictures a call.
        calls: Counted calls of each, rounded up to whole bursts.
        burst: Counted calls in a row.

    Returns:
        Milliseconds of each counted call, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _turn in range(math.ceil(calls / burst)):
        for name, contender in contenders.items():
            times[name] += contender.time_ms(batch, WARM_UP + burst)[WARM_UP:]
    return times


def percentile(times: list[float], share: float) -> float:
    """Return the time within which this share of the calls was done.

    >>> percentile([3.0, 1.0, 2.0, 5.0], 0.5)
    2.0
    >>> percentile([3.0, 1.0, 2.0, 5.0], 0.99)
    5.0
    """
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]
