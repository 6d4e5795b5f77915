"""One call: its id, its clock and what came with it, for whatever serves it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from service.ledger import Ledger


@dataclass(frozen=True)
class Call:
    """One call.

    Args:
        method: As gRPC names it, "/gpusq.v1.Vision/Classify".
        peer: Where it comes from, "ipv4:127.0.0.1:50000".
        metadata: What came with it; of a key given twice the last.
        ledger: Its clock, which began before its message was read.
        request_id: In the log, and in the answer's metadata.
    """

    method: str
    peer: str
    metadata: dict[str, str | bytes]
    ledger: Ledger
    request_id: str


_CURRENT: Final[ContextVar[Call]] = ContextVar("call")


def enter(call: Call) -> None:
    """Make a call the one that this task serves."""
    _CURRENT.set(call)


def current() -> Call:
    """Return the call that this task serves."""
    return _CURRENT.get()
