"""A real Triton joins the trace of a request that is sampled, and hears of no other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from compress.plan.repository import publish
from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests.bundles import colour_card, colour_graph, write_bundle
from tests.contract.pictures import encoded, photo
from tests.service import otlp
from tests.system import triton_server

pytestmark = pytest.mark.triton

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
UNSAMPLED = {"traceparent": f"00-{'1' * 32}-b7ad6b7169203331-00"}


def of_triton(receiver: otlp.Receiver) -> list[Any]:
    """Return the spans that Triton has sent."""
    return [
        span
        for request in receiver.in_json
        for resource in request["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def test_triton_joins_the_trace_of_a_sampled_request_and_hears_of_no_other(tmp_path: Path):
    publish(write_bundle(tmp_path, colour_graph(), colour_card()), tmp_path / "r", "colours",
            backend="python")  # fmt: skip
    picture, headers = encoded(photo(40, 30)), {"Content-Type": "image/png"}
    with otlp.receiving() as receiver:
        options = (
            "--trace-config=mode=opentelemetry",
            f"--trace-config=opentelemetry,url={receiver.url}/v1/traces",
            "--trace-config=level=TIMESTAMPS",
            # Of those that come without a context, nearly none.
            "--trace-config=rate=1000000",
        )
        installation = triton_server.install("onnxruntime")
        log = tmp_path / "log"
        with triton_server.running(installation, tmp_path / "r", log, *options) as address:
            settings = Settings(
                executor="triton", triton_url=address, triton_check_s=0.5,
                otlp_endpoint=receiver.url, trace_ratio=0, default_model="colours", deadline_s=30,
            )  # fmt: skip
            with TestClient(create_app(settings, choice.load(settings))) as client:
                end_s = time.monotonic() + 30
                while client.get("/readyz").status_code != 200:
                    assert time.monotonic() < end_s
                    time.sleep(0.05)
                for more in (UNSAMPLED, {}, SAMPLED):
                    answer = client.post(
                        "/v1/classify", content=picture, headers={**headers, **more}
                    )
                    assert answer.status_code == 200
        spans = receiver.spans()

    [call] = [span for span in spans if span.name == "inference.GRPCInferenceService/ModelInfer"]
    theirs = of_triton(receiver)
    assert {span["traceId"] for span in theirs} == {TRACE}
    [outermost] = [span for span in theirs if span["name"] == "InferRequest"]
    assert outermost["parentSpanId"] == call.span_id.hex()
    assert call.start_time_unix_nano <= int(outermost["startTimeUnixNano"])
    assert int(outermost["endTimeUnixNano"]) <= call.end_time_unix_nano
