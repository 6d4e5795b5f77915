"""One request as it is logged, traced and counted, whichever transport it came by.

Reachable from everything that is called on its behalf, in threads too, by a context variable.
Imports no transport, no gateway, and nothing of OpenTelemetry.
"""

from __future__ import annotations

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from service.ledger import Ledger
    from service.observe.access import Ended
    from service.observe.trace import Trace

# Nothing that could end a line, a quoted string or a URN.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@dataclass
class Exchange:
    """One request and its answer.

    Args:
        request_id: By which the answer, the log and the trace name it.
        trace: What is traced of it; None where it is not sampled.
        ids_are_exemplars: Whether its id is the example that the histograms name, as it is while
            no request is traced.
        ledger: Where its time went, where it was meant for a network.
        task: What was asked for.
        model: Who was asked; None where there is no such model.
        version: Which version answered.
        outcome: ok, cancelled, or the code of its refusal.
        notes: More fields for its line in the log.
        pictures: Where the time of each picture went, where one request brought several.
        ended: How it ended, as its transport says it.
    """

    request_id: str
    trace: Trace | None = None
    ids_are_exemplars: bool = True
    ledger: Ledger | None = None
    task: str | None = None
    model: str | None = None
    version: int | None = None
    outcome: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    pictures: list[Ledger] = field(default_factory=list)
    ended: Ended | None = None
    began_s: float = field(default_factory=time.perf_counter)

    def exemplar(self) -> dict[str, str] | None:
        """Return the labels by which a measurement leads back to this request, if it shall."""
        if self.trace is not None:
            return {"trace_id": self.trace.trace_id_hex, "request_id": self.request_id}
        return {"request_id": self.request_id} if self.ids_are_exemplars else None


def request_id(asked: str | None) -> str:
    r"""Return the id that a client chose, where it is a short token, else a new one.

    >>> request_id("order-17.retry_2")
    'order-17.retry_2'
    >>> len(request_id("two\nlines")), len(request_id(None))
    (36, 36)
    """
    if asked is not None and _REQUEST_ID.fullmatch(asked):
        return asked
    return str(uuid.uuid4())


def current() -> Exchange | None:
    """Return the request on whose behalf this code runs; None outside of any."""
    return _current.get()


def enter(exchange: Exchange) -> None:
    """Make it the current one; requests are never within one another."""
    _current.set(exchange)


def leave() -> None:
    """Say that what follows is done for no request."""
    # Not by a token: the end of a stream may come in another context than its beginning.
    _current.set(None)


def note(task: str | None, model: str | None, outcome: str) -> None:
    """Say of the current request what it was and how it ended.

    Of several pictures in one request, the first that failed decides.

    Args:
        task: What was asked for.
        model: Who was asked; None where there is no such model.
        outcome: ok, cancelled, or the code of the refusal.
    """
    exchange = _current.get()
    if exchange is not None:
        exchange.task, exchange.model = task, model
        if exchange.outcome in (None, "ok"):
            exchange.outcome = outcome


def note_picture(ledger: Ledger) -> None:
    """Say where the time of one of the pictures of the current request goes."""
    exchange = _current.get()
    if exchange is not None and exchange.trace is not None:
        exchange.pictures.append(ledger)


def note_version(version: int) -> None:
    """Say of the current request which version of the model answered."""
    exchange = _current.get()
    if exchange is not None:
        exchange.version = version
