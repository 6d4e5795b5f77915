"""What a transport does for every request: give it an id, then log it and trace it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from service.observe import exchange, trace
from service.observe.exchange import Exchange

_ID: Final = "x-request-id"
_CONTEXT: Final = ("traceparent", "tracestate")
access_log = logging.getLogger("service.access")


class Tracer(Protocol):
    """Sends spans somewhere."""

    @property
    def ratio(self) -> float:
        """The share of requests that are traced where their caller did not decide it."""

    def tell(self, ended: Exchange) -> None:
        """Take the spans of a request; never blocks and never fails."""

    def close(self) -> None:
        """Send what is left, for two seconds at most."""


class Observer:
    """Sees every request of one service.

    Args:
        tracer: Where spans go; None where nothing is traced.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @contextmanager
    def exchange(self, asked: Mapping[str, str], *, traced: bool = True) -> Iterator[Exchange]:
        """Make a request the current one; log and trace it once it has ended.

        The transport says in :attr:`Exchange.ended` how, before the block is left.

        Args:
            asked: What the client sent beside its request, as :func:`asked` finds it.
            traced: Whether it is worth a trace; probes are not.
        """
        tracer = self._tracer if traced else None
        begun = Exchange(
            exchange.request_id(asked.get(_ID)),
            trace=_begin(tracer, asked) if tracer is not None else None,
            ids_are_exemplars=self._tracer is None,
        )
        exchange.enter(begun)
        try:
            yield begun
        finally:
            if begun.ended is not None:
                _log(begun)
            exchange.leave()
            if tracer is not None and begun.trace is not None:
                begun.trace.ended = True
                tracer.tell(begun)

    def close(self) -> None:
        """Send the spans that are left, for two seconds at most."""
        if self._tracer is not None:
            self._tracer.close()


def asked(headers: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Find what says who asks, among headers or metadata; what comes twice says nothing.

    >>> asked([("x-request-id", "a"), ("x-request-id", "b"), ("traceparent", "c")])
    {'traceparent': 'c'}
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if isinstance(value, str) and (name == _ID or name in _CONTEXT):
            found.setdefault(name, []).append(value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _begin(tracer: Tracer, asked: Mapping[str, str]) -> trace.Trace | None:
    caller = trace.parent(asked.get("traceparent"), asked.get("tracestate", ""))
    return trace.sample(caller, tracer.ratio)


def _log(done: Exchange) -> None:
    ended = done.ended
    if ended is None or not access_log.isEnabledFor(
        level := logging.DEBUG if ended.quiet else logging.INFO
    ):
        return
    duration_ms = 1000 * (time.perf_counter() - done.began_s)
    fields = {
        **ended.fields,
        "duration_ms": round(duration_ms, 3),
        "model": done.model,
        "version": done.version,
        "task": done.task,
        "outcome": done.outcome,
        **done.notes,
    }
    access_log.log(
        level,
        "%s %.1f ms %s",
        ended.line,
        duration_ms,
        done.request_id,
        extra={"fields": {k: v for k, v in fields.items() if v is not None}},
    )
