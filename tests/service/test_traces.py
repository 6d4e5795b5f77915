"""Spans, as a receiver on the loopback gets them, and what of them reaches Triton."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from service.app import create_app
from service.errors import ModelError
from service.executors.triton import TritonExecutor
from service.observe import spans, trace, tracing
from service.settings import Settings
from tests.conftest import Serve
from tests.service import otlp
from tests.service.asking import JPEG
from tests.service.fakes import FakeExecutor
from tests.service.otlp import attributes
from tests.service.test_triton_executor import Server, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
STAGES = {"read", "queue", "decode", "preprocess", "infer", "postprocess"}


@contextlib.contextmanager
def traced(
    serve: Serve, receiver: otlp.Receiver, executor: Any = None, **settings: Any
) -> Iterator[httpx.Client]:
    given = {"otlp_endpoint": receiver.url, "deadline_s": 30, **settings}
    with serve(create_app(Settings(**given), executor or FakeExecutor())) as client:
        yield client


def ask(client: httpx.Client, data: bytes, headers: dict[str, str] | None = None, **query: Any):
    return client.post(
        "/v1/classify", content=data, params=query, headers={**JPEG, **(headers or {})}
    )


def test_a_request_is_one_trace_of_nested_spans_that_took_as_long_as_the_answer_says(
    serve: Serve, red_jpeg: bytes
):
    with otlp.receiving() as receiver:
        with traced(serve, receiver) as client:
            answer = ask(client, red_jpeg, {"X-Request-ID": "mine"})
        spans = receiver.spans()

    assert set(receiver.paths) == {"/v1/traces"}
    [root] = [span for span in spans if span.name == "POST /v1/classify"]
    assert not root.parent_span_id
    assert root.kind == root.SPAN_KIND_SERVER
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert len({span.span_id for span in spans}) == len(spans)
    stages = [span for span in spans if span is not root]
    assert {span.name for span in stages} == STAGES
    timings_ms = answer.json()["timings_ms"]
    for name in STAGES:
        took_ns = sum(
            s.end_time_unix_nano - s.start_time_unix_nano for s in stages if s.name == name
        )
        # Each is rounded to a microsecond, in the answer and as a span.
        assert took_ns / 1e6 == pytest.approx(timings_ms[name], abs=0.01)
    for span in stages:
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert abs(time.time_ns() - root.end_time_unix_nano) < 60e9


def test_a_span_says_by_convention_what_was_asked_and_answered(serve: Serve, red_jpeg: bytes):
    with otlp.receiving() as receiver:
        with traced(serve, receiver) as client:
            answer = ask(client, red_jpeg, {"X-Request-ID": "mine", "User-Agent": "camera"})
        [root] = [span for span in receiver.spans() if span.name == "POST /v1/classify"]
        [resource] = {r.SerializeToString(): r for q in receiver.requests for r in (
            s.resource for s in q.resource_spans)}.values()  # fmt: skip

    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "http.request.body.size": len(red_jpeg),
        "http.response.body.size": len(answer.content),
        "url.path": "/v1/classify",
        "url.scheme": "http",
        "network.protocol.name": "http",
        "client.address": "127.0.0.1",
        "user_agent.original": "camera",
        "gpusq.request_id": "mine",
        "gpusq.model": "colours",
        "gpusq.version": 3,
        "gpusq.task": "classify",
        "gpusq.outcome": "ok",
    }
    assert root.status.code == root.status.STATUS_CODE_UNSET
    assert attributes(resource)["service.name"] == "gpusq"


def test_a_text_that_a_client_chose_takes_little_of_the_queue_of_spans(serve: Serve):
    with otlp.receiving() as receiver:
        with traced(serve, receiver) as client:
            client.get(f"/{'a' * 5000}", headers={"User-Agent": "b" * 5000})
        [root] = receiver.spans()

    assert attributes(root)["user_agent.original"] == "b" * 1024
    assert len(attributes(root)["url.path"]) == 1024


def test_each_of_several_pictures_has_spans_of_its_own(serve: Serve, red_jpeg: bytes):
    text = base64.b64encode(red_jpeg).decode()
    with otlp.receiving() as receiver:
        with traced(serve, receiver) as client:
            answer = client.post("/v1/classify", json={"images": [text, text, text]})
            assert answer.status_code == 200
        spans = receiver.spans()

    [root] = [span for span in spans if span.name == "POST /v1/classify"]
    count = collections.Counter(s.name for s in spans if s.parent_span_id == root.span_id)
    assert {name: count[name] for name in STAGES - {"queue"}} == {
        "read": 1, "decode": 3, "preprocess": 3, "infer": 3, "postprocess": 3,
    }  # fmt: skip
    assert attributes(root)["gpusq.outcome"] == "ok"


@pytest.mark.parametrize(
    ("query", "error", "outcome", "code"),
    [
        ({}, ModelError("broken"), "internal", "STATUS_CODE_ERROR"),
        # The client's mistake is no fault of the service.
        ({"model": "none"}, None, "unknown_model", "STATUS_CODE_UNSET"),
        ({"top_k": 0}, None, "invalid_argument", "STATUS_CODE_UNSET"),
    ],
)
def test_a_failure_is_told_with_its_code(
    serve: Serve, red_jpeg: bytes, query: dict[str, Any], error: Any, outcome: str, code: str
):
    executor = FakeExecutor()
    executor.error = error
    with otlp.receiving() as receiver:
        with traced(serve, receiver, executor) as client:
            ask(client, red_jpeg, **query)
        [root] = [span for span in receiver.spans() if span.name == "POST /v1/classify"]

    assert attributes(root)["error.type"] == outcome
    assert root.status.code == getattr(root.status, code)


def test_the_caller_decides_whether_a_request_is_traced(serve: Serve, red_jpeg: bytes):
    with otlp.receiving() as receiver:
        with traced(serve, receiver, trace_ratio=0) as client:
            ask(client, red_jpeg)
            ask(client, red_jpeg, UNSAMPLED)
            ask(client, red_jpeg, SAMPLED)
        roots = [span for span in receiver.spans() if span.name == "POST /v1/classify"]

    [root] = roots
    assert root.trace_id.hex() == TRACE
    assert root.parent_span_id.hex() == CALLER
    assert root.trace_state == "vendor=1"


def test_a_caller_who_does_not_trace_is_not_traced_whatever_the_ratio(
    serve: Serve, red_jpeg: bytes
):
    with otlp.receiving() as receiver:
        with traced(serve, receiver, trace_ratio=1) as client:
            ask(client, red_jpeg, UNSAMPLED)
            client.get("/readyz", headers=SAMPLED)

        assert receiver.spans() == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{CALLER}",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-01-more",
        f"00-{TRACE}-{CALLER}-01\n",
    ],
)
def test_a_context_that_is_not_valid_is_as_none(header: str):
    assert trace.parent(header) is None


def test_a_context_of_a_later_version_is_read():
    caller = trace.parent(f"01-{TRACE}-{CALLER}-03-more", "a=b\r\nX: y")

    assert caller == trace.Parent(int(TRACE, 16), int(CALLER, 16), sampled=True, state="")


def test_the_ratio_is_the_share_of_requests():
    kept = sum(trace.sample(None, 0.25) is not None for _ in range(4000))

    # Five standard deviations of a binomial.
    assert abs(kept - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert trace.sample(None, 0.0) is None
    assert trace.sample(None, 1.0) is not None


class _Recording(grpc.aio.ServerInterceptor):
    """Keeps the metadata of every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str]]] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        self.calls.append((method, dict(details.invocation_metadata)))
        return await continuation(details)

    def contexts(self) -> list[dict[str, str]]:
        """Return what was sent of W3C's context with each call that had any."""
        kept = [{k: v for k, v in m.items() if k.startswith("trace")} for _, m in self.calls]
        return [context for context in kept if context]


@contextlib.contextmanager
def triton() -> Iterator[tuple[str, _Recording]]:
    """Run a server that speaks Triton's protocol, in a thread."""
    recording = _Recording()
    ready, over = threading.Event(), threading.Event()
    ports: list[int] = []

    async def run() -> None:
        async with serving(Server(), interceptors=(recording,)) as port:
            ports.append(port)
            ready.set()
            while not over.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"127.0.0.1:{ports[0]}", recording
    finally:
        over.set()
        thread.join()


def until_ready(client: httpx.Client) -> None:
    end_s = time.monotonic() + 10
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_triton_hears_of_a_trace_only_where_the_request_is_sampled(serve: Serve, red_jpeg: bytes):
    with triton() as (url, recording), otlp.receiving() as receiver:
        executor = TritonExecutor(url, concurrency=2, timeout_s=5, check_s=0.1)
        settings = {"default_model": "colours", "trace_ratio": 0}
        with traced(serve, receiver, executor, **settings) as client:
            until_ready(client)
            assert ask(client, red_jpeg).status_code == 200
            assert ask(client, red_jpeg, UNSAMPLED).status_code == 200
            assert recording.contexts() == []
            assert ask(client, red_jpeg, SAMPLED).status_code == 200
        spans = receiver.spans()

    [sent] = recording.contexts()
    [call] = [span for span in spans if span.name == "inference.GRPCInferenceService/ModelInfer"]
    [infer] = [span for span in spans if span.name == "infer"]
    assert sent == {"traceparent": f"00-{TRACE}-{call.span_id.hex()}-01", "tracestate": "vendor=1"}
    assert call.kind == call.SPAN_KIND_CLIENT
    assert call.parent_span_id == infer.span_id
    assert infer.start_time_unix_nano <= call.start_time_unix_nano
    assert call.end_time_unix_nano <= infer.end_time_unix_nano
    assert attributes(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": int(url.rpartition(":")[2]),
    }


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the service warned of; pytest alone hears the library too."""
    ours = [record for record in caplog.records if record.name.startswith("service.")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_a_receiver_that_fails_hurts_no_request_and_is_complained_of(
    serve: Serve, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    with otlp.receiving(status=400) as receiver, traced(serve, receiver) as client:
        assert ask(client, red_jpeg).status_code == 200

    [complaint] = complaints(caplog)
    assert complaint.startswith("spans are lost: Failed to export")


def test_no_more_than_one_complaint_a_minute_is_passed_on(caplog: pytest.LogCaptureFixture):
    library = logging.getLogger("opentelemetry.exporter.some")
    tracer = spans.OtlpTracer("http://127.0.0.1:1", 1.0)

    for _ in range(5):
        library.error("nobody\nlistens")
    tracer.close()

    assert complaints(caplog) == ["spans are lost: nobody"]


def test_a_stop_waits_two_seconds_at_most_for_a_receiver_that_hangs(serve: Serve, red_jpeg: bytes):
    with otlp.receiving(delay_s=4) as receiver:
        with traced(serve, receiver) as client:
            assert ask(client, red_jpeg).status_code == 200
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 3.5


def test_nothing_of_opentelemetry_is_loaded_where_nothing_is_traced():
    script = (
        "import sys\n"
        "from service.app import create_app\n"
        "from service.settings import Settings\n"
        "from tests.service.fakes import FakeExecutor\n"
        "create_app(Settings(), FakeExecutor()).state.gateway.close()\n"
        # FastAPI loads its interfaces, which do nothing by themselves.
        "assert 'opentelemetry.sdk' not in sys.modules\n"
        "assert 'opentelemetry.exporter' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("chosen", "environment", "expected"),
    [
        (None, {}, None),
        ("http://a:1", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"}, "http://a:1/v1/traces"),
        ("http://a:1/v1/traces", {}, "http://a:1/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b/x/"}, "http://b/x/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/x"}, "http://b/x"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_endpoint_is_the_settings_else_the_one_of_opentelemetrys_environment(
    chosen: str | None, environment: dict[str, str], expected: str | None
):
    assert tracing.endpoint(chosen, environment) == expected
