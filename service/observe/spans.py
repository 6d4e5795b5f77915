"""Spans of finished requests, sent over OTLP by HTTP. Imported only where tracing is on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from service.ledger import Span
from service.observe.access import Ended
from service.observe.exchange import Exchange
from service.observe.trace import Call, Trace

logger = logging.getLogger(__name__)

# A request has about ten spans; what finds no place is dropped.
_QUEUE: Final = 4096
_BATCH: Final = 512
# Clients choose some texts, such as their name; the queue holds thousands of spans.
_MOST_LETTERS: Final = 1024
_EVERY_MS: Final = 1000
_STOP_S: Final = 2.0
_COMPLAIN_EVERY_S: Final = 60.0
_UNNAMED: Final = "unknown_service"


class OtlpTracer:
    """Makes spans of requests that have ended, and has a thread send them.

    To be told from one thread, that of the event loop.

    Args:
        endpoint: The whole URL that spans are sent to.
        ratio: The share of requests that are traced where their caller did not decide it.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        self.ratio = ratio
        _hush()
        self._ids = _GivenIds()
        processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint),
            max_queue_size=_QUEUE,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_EVERY_MS,
        )
        self._provider = TracerProvider(
            # Which requests are traced was decided when they began.
            sampler=ALWAYS_ON,
            resource=_resource(),
            id_generator=self._ids,
            span_limits=SpanLimits(max_span_attribute_length=_MOST_LETTERS),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("gpusq")

    def tell(self, ended: Exchange) -> None:
        """Hand the spans of a request to the thread that sends them."""
        if ended.trace is None or ended.ended is None:
            return
        clock = _Clock()
        trace = ended.trace
        root = self._root(ended, trace, ended.ended, clock)
        inside = api.set_span_in_context(root, Context())
        last_s = time.perf_counter()
        ledgers = filter(None, (ended.ledger, *ended.pictures))
        # Those of pictures begin with what all of them shared.
        stretches = dict.fromkeys(span for ledger in ledgers for span in ledger.spans)
        infer = self._stages(stretches, inside, clock, last_s)
        for call in trace.calls:
            around = (where for stretch, where in reversed(infer) if _holds(stretch, call))
            self._call(call, next(around, inside), clock)
        root.end(clock.ns(last_s))

    def close(self) -> None:
        """Send what is left, for two seconds at most; what remains is lost."""
        # It waits for an exporter that waits for its server, and takes no limit.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_STOP_S)

    def _stages(
        self, stretches: Iterable[Span], inside: Context, clock: _Clock, last_s: float
    ) -> list[tuple[Span, Context]]:
        """Make a span of each stretch; return those in which a network was asked."""
        infer = []
        for stretch in stretches:
            span = self._tracer.start_span(
                stretch.stage, inside, start_time=clock.ns(stretch.started_s)
            )
            # What was given up at the deadline may still run.
            span.end(clock.ns(min(stretch.ended_s or last_s, last_s)))
            if stretch.stage == "infer":
                infer.append((stretch, api.set_span_in_context(span, Context())))
        return infer

    def _root(self, ended: Exchange, trace: Trace, end: Ended, clock: _Clock) -> api.Span:
        self._ids.trace_id, self._ids.span_id = trace.trace_id, trace.span_id
        span = self._tracer.start_span(
            end.name,
            _caller(trace),
            SpanKind.SERVER,
            {**end.attributes, **_own(ended)},
            start_time=clock.ns(ended.began_s),
        )
        if ended.outcome not in (None, "ok", "cancelled"):
            span.set_attribute("error.type", str(ended.outcome))
        if end.failed:
            span.set_status(Status(StatusCode.ERROR, ended.outcome))
        return span

    def _call(self, call: Call, inside: Context, clock: _Clock) -> None:
        host, _, port = call.server.rpartition(":")
        self._ids.span_id = call.span_id
        span = self._tracer.start_span(
            call.method,
            inside,
            SpanKind.CLIENT,
            {
                "rpc.system.name": "grpc",
                "rpc.method": call.method,
                "rpc.response.status_code": call.status,
                "server.address": host,
                "server.port": int(port),
            },
            start_time=clock.ns(call.began_s),
        )
        if not call.ok:
            span.set_attribute("error.type", call.status)
            span.set_status(Status(StatusCode.ERROR))
        span.end(clock.ns(call.ended_s or time.perf_counter()))


class _Clock:
    """Turns times of the monotonic clock into those of the day."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.perf_counter_ns()

    def ns(self, seconds: float) -> int:
        return self._offset_ns + round(1e9 * seconds)


class _GivenIds(IdGenerator):
    """Gives the ids that were sent to others before their span was made, else new ones."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_span_id(self) -> int:
        given, self.span_id = self.span_id, 0
        return given or int.from_bytes(os.urandom(8), "big") or 1

    def generate_trace_id(self) -> int:
        return self.trace_id


class _Complaints(logging.Handler):
    """Passes on what the exporter complains of, at most once a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if (now_s := time.monotonic()) >= self._next_s:
            self._next_s = now_s + _COMPLAIN_EVERY_S
            logger.warning("spans are lost: %s", record.getMessage().splitlines()[0])


def _hush() -> None:
    library = logging.getLogger("opentelemetry")
    library.propagate = False
    for handler in [one for one in library.handlers if isinstance(one, _Complaints)]:
        library.removeHandler(handler)
    library.addHandler(_Complaints())


def _resource() -> Resource:
    """Return what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, with a name in any case."""
    named = Resource.create()
    if str(named.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        named = named.merge(Resource({SERVICE_NAME: "gpusq"}))
    return named


def _caller(trace: Trace) -> Context:
    if trace.parent_id is None:
        return Context()
    context = SpanContext(
        trace.trace_id,
        trace.parent_id,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([trace.state]),
    )
    return api.set_span_in_context(api.NonRecordingSpan(context), Context())


def _own(ended: Exchange) -> Mapping[str, Any]:
    found = {
        "gpusq.request_id": ended.request_id,
        "gpusq.model": ended.model,
        "gpusq.version": ended.version,
        "gpusq.task": ended.task,
        "gpusq.outcome": ended.outcome,
    }
    return {name: value for name, value in found.items() if value is not None}


def _holds(stretch: Span, call: Call) -> bool:
    return stretch.started_s <= call.began_s <= (stretch.ended_s or call.began_s)
