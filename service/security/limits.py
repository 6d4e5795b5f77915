"""How often: a rate with bursts, and a number a day. Both in memory; a restart begins anew."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Final

MOST_CLIENTS: Final = 4096


class Bucket:
    """Lets so many requests a second through, and as many at once as a pause has saved up.

    In any stretch of ``t`` seconds at most ``burst + rate * t`` get through.

    Args:
        rate: Requests a second.
        burst: The most at once.
        now_s: A clock's time.
    """

    def __init__(self, rate: float, burst: int, now_s: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at_s = now_s

    def wait_s(self, now_s: float) -> int:
        """Take one, or say in how many whole seconds there will be one; 0 when it was taken."""
        saved = max(0.0, now_s - self._at_s) * self.rate
        self._tokens = min(float(self.burst), self._tokens + saved)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        return max(1, math.ceil((1 - self._tokens) / self.rate))


class Day:
    """Counts the requests of one UTC day."""

    def __init__(self) -> None:
        self._day = date.min
        self._used = 0

    def wait_s(self, quota: int, now: datetime) -> int:
        """Take one of ``quota``, or say how many whole seconds are left of the day; 0 when taken.

        Args:
            quota: The most a day.
            now: With its time zone.
        """
        now = now.astimezone(timezone.utc)
        # A clock that is set back gives nobody a second day.
        if now.date() > self._day:
            self._day, self._used = now.date(), 0
        if self._used < quota:
            self._used += 1
            return 0
        midnight = datetime.combine(self._day + timedelta(days=1), time(), timezone.utc)
        return max(1, math.ceil((midnight - now).total_seconds()))


class Attempts:
    """Bounds failed attempts of each client address, and how many addresses are remembered.

    Args:
        rate: Failures a second.
        burst: The most at once.
        clock: Seconds, never going back.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._clients: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def wait_s(self, client: str) -> int:
        """Count one failure; return in how many seconds the next is heard, 0 while they are few."""
        now_s = self._clock()
        bucket = self._clients.pop(client, None) or Bucket(self._rate, self._burst, now_s)
        self._clients[client] = bucket
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return bucket.wait_s(now_s)
