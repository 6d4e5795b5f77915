"""Whether a request is traced, under which ids, and what it calls. W3C Trace Context, no SDK.

Spans are made of this after the answer, by spans.py; a request that is not sampled has none of it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from service.observe import exchange

# Version, trace id, parent id, flags; later versions may have more behind them.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_SAMPLED: Final = 1
_MAX_STATE: Final = 512
_STATE: Final = re.compile(r"[\x20-\x7e]*")

# What a gRPC call sends beside its message; None for nothing.
Metadata = tuple[tuple[str, str], ...] | None


@dataclass
class Call:
    """One call to another server within a traced request.

    Args:
        method: Its full name, package, service and method.
        server: Host and port.
        span_id: Under which the other server knows it.
        began_s: By the clock of :func:`time.perf_counter`, as is ``ended_s``.
        status: The name of its gRPC status, or of the error.
        ok: Whether it succeeded.
    """

    method: str
    server: str
    span_id: int
    began_s: float
    ended_s: float | None = None
    status: str = "OK"
    ok: bool = True


@dataclass
class Trace:
    """The ids of one sampled request.

    Args:
        trace_id: 128 bits, those of the caller where there was one.
        span_id: 64 bits, of the request itself.
        parent_id: The caller's span; None where the trace begins here.
        state: The caller's tracestate, handed on unread.
        calls: What was asked of other servers.
        ended: Whether its spans have been made, after which nothing joins it.
    """

    trace_id: int
    span_id: int
    parent_id: int | None
    state: str = ""
    calls: list[Call] = field(default_factory=list)
    ended: bool = False

    @property
    def trace_id_hex(self) -> str:
        """The trace id as it is written."""
        return f"{self.trace_id:032x}"

    def metadata(self, call: Call) -> Metadata:
        """Return what makes the other server's spans part of this trace."""
        parent = ("traceparent", f"00-{self.trace_id_hex}-{call.span_id:016x}-01")
        return (parent, ("tracestate", self.state)) if self.state else (parent,)


@dataclass(frozen=True)
class Parent:
    """The caller's span.

    Args:
        trace_id: Of the trace.
        span_id: Of the span in it.
        sampled: Whether the caller traces this request.
        state: Its tracestate.
    """

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def parent(traceparent: str | None, tracestate: str = "") -> Parent | None:
    """Read the headers of W3C Trace Context; None where there are none, or none that are valid.

    >>> parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").sampled
    True
    >>> parent("00-00000000000000000000000000000000-b7ad6b7169203331-01") is None
    True
    """
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or (found[1] == "00" and found[5]):
        return None
    good = len(tracestate) <= _MAX_STATE and _STATE.fullmatch(tracestate)
    sampled = bool(int(found[4], 16) & _SAMPLED)
    return Parent(int(found[2], 16), int(found[3], 16), sampled, tracestate if good else "")


def sample(caller: Parent | None, ratio: float) -> Trace | None:
    """Decide whether a request is traced: as the caller decided, else so many of all.

    Args:
        caller: Who asked within a trace of their own.
        ratio: The share of all others, 0 to 1.

    Source:
        OpenTelemetry's ParentBased and TraceIdRatioBased samplers: the low 64 bits of the trace id
        decide, so that every service with this ratio decides alike.
    """
    if caller is not None:
        if not caller.sampled:
            return None
        return Trace(caller.trace_id, _random(8), caller.span_id, caller.state)
    trace_id = _random(16)
    if trace_id & ((1 << 64) - 1) >= round(ratio * (1 << 64)):
        return None
    return Trace(trace_id, _random(8), None)


@contextmanager
def calling(method: str, server: str) -> Iterator[Metadata]:
    """Record a call to another server, if the request on whose behalf it is made is sampled.

    Only then is there metadata for it: Triton traces whatever brings a context, whether or not its
    flag says so (triton-inference-server/server#8474).

    Args:
        method: Its full name.
        server: Host and port.
    """
    asking = exchange.current()
    if asking is None or (trace := asking.trace) is None or trace.ended:
        yield None
        return
    call = Call(method, server, _random(8), time.perf_counter())
    trace.calls.append(call)
    try:
        yield trace.metadata(call)
    except BaseException as error:
        call.ok, call.status = False, _status(error)
        raise
    finally:
        call.ended_s = time.perf_counter()


def _status(error: BaseException) -> str:
    """Return the name of the gRPC status that an error came of, else of the error itself."""
    code = getattr(error.__cause__, "code", None)
    return str(code().name) if callable(code) else type(error).__name__


def _random(count: int) -> int:
    # Zero is no valid id.
    return int.from_bytes(os.urandom(count), "big") or 1
