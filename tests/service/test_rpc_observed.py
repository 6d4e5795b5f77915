"""Calls over gRPC are seen as requests over HTTP are: by id, log line, trace and exemplar."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from service.app import create_app
from service.rpc.gpusq.v1 import vision_pb2 as messages
from service.settings import Settings
from tests.conftest import Serve
from tests.service import otlp
from tests.service.fakes import FakeExecutor
from tests.service.otlp import attributes

METHOD = "/gpusq.v1.Vision/Classify"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")


@contextlib.contextmanager
def serving(serve: Serve, **settings: Any) -> Iterator[tuple[Any, httpx.Client]]:
    """Serve both transports; gives the method of gRPC, and a client of HTTP."""
    listener = socket.socket()
    # gRPC takes the address while this holds it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = create_app(Settings(deadline_s=30, **settings), FakeExecutor(), listener)
    with serve(app) as client, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        classify = channel.unary_unary(
            METHOD,
            messages.ClassifyRequest.SerializeToString,
            messages.ClassifyResponse.FromString,
        )
        yield classify, client


def picture(data: bytes, **options: Any) -> messages.ClassifyRequest:
    return messages.ClassifyRequest(image=data, **options)


def test_a_call_is_one_trace_with_the_id_that_the_client_chose(serve: Serve, red_jpeg: bytes):
    with otlp.receiving() as receiver:
        with serving(serve, otlp_endpoint=receiver.url, trace_ratio=0) as (classify, client):
            metadata = (SAMPLED, ("x-request-id", "mine"))
            _, call = classify.with_call(picture(red_jpeg), metadata=metadata)
            classify(picture(red_jpeg))
            accept = {"Accept": "application/openmetrics-text"}
            metrics = client.get("/metrics", headers=accept).text
        spans = receiver.spans()

    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    [root] = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    assert root.name == METHOD.removeprefix("/")
    assert root.trace_id.hex() == TRACE
    assert attributes(root) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD.removeprefix("/"),
        "rpc.response.status_code": "OK",
        "client.address": "127.0.0.1",
        "gpusq.request_id": "mine",
        "gpusq.model": "colours",
        "gpusq.version": 3,
        "gpusq.task": "classify",
        "gpusq.outcome": "ok",
    }
    stages = {span.name for span in spans if span.parent_span_id == root.span_id}
    assert stages == {"read", "queue", "decode", "preprocess", "infer", "postprocess"}
    assert f'# {{request_id="mine",trace_id="{TRACE}"}}' in metrics


@pytest.mark.parametrize(
    ("data", "options", "outcome", "status", "code"),
    [
        (b"no picture", {}, "unsupported_media", "INVALID_ARGUMENT", "STATUS_CODE_UNSET"),
        (b"", {"model": "none"}, "unknown_model", "NOT_FOUND", "STATUS_CODE_UNSET"),
    ],
)
def test_a_call_that_is_refused_has_its_code_in_its_span(
    serve: Serve, data: bytes, options: dict[str, Any], outcome: str, status: str, code: str
):
    with otlp.receiving() as receiver:
        with (
            serving(serve, otlp_endpoint=receiver.url) as (classify, _client),
            pytest.raises(grpc.RpcError),
        ):
            classify(picture(data, **options))
        [root] = [span for span in receiver.spans() if span.kind == span.SPAN_KIND_SERVER]

    said = attributes(root)
    assert (said["error.type"], said["rpc.response.status_code"]) == (outcome, status)
    assert root.status.code == getattr(root.status, code)


def test_a_call_has_one_line_in_the_log(
    serve: Serve, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "service.access"), serving(serve) as (classify, _client):
        classify(picture(red_jpeg), metadata=(("x-request-id", "mine"),))

    [record] = [record for record in caplog.records if record.name == "service.access"]
    message = record.getMessage()
    assert message.startswith(f'127.0.0.1 "gRPC {METHOD}" OK ')
    assert message.endswith(" ms mine")
    said = vars(record)["fields"]
    assert said.pop("duration_ms") > 0
    assert said == {
        "method": METHOD.removeprefix("/"), "status": "OK", "client": "127.0.0.1",
        "model": "colours", "version": 3, "task": "classify", "outcome": "ok",
    }  # fmt: skip


@pytest.mark.parametrize("ids", [["two words"], ["a", "b"]])
def test_an_id_that_is_none_is_replaced(serve: Serve, red_jpeg: bytes, ids: list[str]):
    with serving(serve) as (classify, _client):
        metadata = [("x-request-id", one) for one in ids]
        _, call = classify.with_call(picture(red_jpeg), metadata=metadata)

    assert len(dict(call.trailing_metadata())["x-request-id"]) == 36
