"""The header Retry-After, in both of its forms."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping


def seconds(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds an answer says to wait; None where it does not say so.

    A date counts from the answer's own Date, so that a clock that is wrong here changes nothing.

    Args:
        headers: By name in lower case.

    Source:
        RFC 9110, section 10.2.3.

    >>> seconds({"retry-after": "3"})
    3.0
    >>> date = "Wed, 25 Nov 2026 10:00:00 GMT"
    >>> seconds({"date": date, "retry-after": "Wed, 25 Nov 2026 10:00:07 GMT"})
    7.0
    """
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdecimal():
        return float(said)
    until = _timestamp(said)
    if until is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
