"""What gRPC adds: calls that are no calls, health, reflection, log, metrics. On the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.errors import Code, GatewayError
from service.rpc.call import Call
from service.rpc.gpusq.v1 import vision_pb2 as messages
from service.settings import Settings
from tests.conftest import Serve
from tests.service import calling
from tests.service.calling import Both, Failure, failed, message, method, raw
from tests.service.fakes import FakeExecutor, Never
from tests.service.test_rest_metrics import outcomes

MAX_BODY_BYTES = 200_000
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[tuple[Both, FakeExecutor]]:
    settings = Settings(
        max_body_bytes=MAX_BODY_BYTES,
        max_tensor_bytes=MAX_BODY_BYTES,
        deadline_s=30,
        read_timeout_s=0.3,
        decode_threads=1,
        queue_limit=0,
    )
    executor = FakeExecutor()
    with calling.both(serve, settings, executor) as both:
        yield both, executor


@pytest.fixture
def executor(served: tuple[Both, FakeExecutor]) -> FakeExecutor:
    executor = served[1]
    executor.gate = executor.error = None
    executor.calls = executor.cancelled = 0
    executor.timeouts_s.clear()
    return executor


@pytest.fixture
def both(served: tuple[Both, FakeExecutor], executor: FakeExecutor) -> Both:
    return served[0]


@contextlib.contextmanager
def counted(both: Both, **expected: float) -> Iterator[None]:
    """Check how many requests have which outcome inside the block."""
    before = outcomes(both.rest)
    yield
    changed = {code: n - before.get(code, 0) for code, n in outcomes(both.rest).items()}
    assert {code: n for code, n in changed.items() if n} == expected


def refused(both: Both, name: str = "Classify", **fields: Any) -> Failure:
    return failed(method(both.channel, name), message(name, **fields), timeout=20)


def classify(both: Both, image: bytes, **fields: Any) -> Any:
    return method(both.channel, "Classify")(message("Classify", image=image, **fields), timeout=20)


def until(holds: Any) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def calls_without_a_message(both: Both, count: int) -> Iterator[list[Any]]:
    """Begin calls whose message does not come."""
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(20)
        yield from ()

    begin = both.channel.stream_unary("/gpusq.v1.Vision/Classify").future
    calls = [begin(nothing(), timeout=20) for _ in range(count)]
    try:
        yield calls
    finally:
        ended.set()
        # Their places are free again once they have ended.
        for call in calls:
            call.exception()


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"GET / HTTP/1.1", b"\x12\x01\xff"]
)
def test_bytes_that_are_no_message_are_refused_with_a_sentence(both: Both, data: bytes):
    with counted(both, bad_request=1):
        came = failed(raw(both.channel, "Classify"), data, timeout=20)

    assert (came.status, came.code) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_request")
    assert came.detail.startswith("The message cannot be parsed")


def test_a_call_without_a_message_is_refused(both: Both):
    call = both.channel.stream_unary("/gpusq.v1.Vision/Classify")

    assert failed(call, iter(()), timeout=20).code == "bad_request"


def test_a_message_that_does_not_come_ends_the_call(both: Both):
    with calls_without_a_message(both, 1) as (call,):
        came = failed(call.result)

    assert (came.status, came.code) == (grpc.StatusCode.DEADLINE_EXCEEDED, "read_timeout")
    assert "within 0.3 s" in came.detail
    # Clocks differ.
    assert came.timings_ms["read"] > 290


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_far_too_large_is_refused_by_grpc_itself(
    both: Both, red_jpeg: bytes, compression: grpc.Compression
):
    request = message("Classify", image=bytes(10 * MAX_BODY_BYTES))

    with pytest.raises(grpc.RpcError, match="larger than max") as raised:
        method(both.channel, "Classify")(request, timeout=20, compression=compression)

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert classify(both, red_jpeg).predictions[0].label == "red"


@pytest.mark.parametrize(
    ("name", "logged"),
    [("/gpusq.v1.Vision/Guess", "/gpusq.v1.Vision/Guess"), ('/a\n"/é', "/a%0A%22/%C3%A9")],
)
def test_an_unknown_method_is_said_and_cannot_break_the_log(
    both: Both, caplog: pytest.LogCaptureFixture, name: str, logged: str
):
    with (
        caplog.at_level(logging.INFO, logger="service.access"),
        pytest.raises(grpc.RpcError) as raised,
    ):
        both.channel.unary_unary(name)(b"", timeout=20)

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    [message] = caplog.messages
    assert message.startswith(f'- "gRPC {logged}" UNIMPLEMENTED ')
    assert "\n" not in message


def test_one_line_a_call_ends_with_the_id_that_the_client_has(
    both: Both, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    request = message("Classify", image=red_jpeg)
    with caplog.at_level(logging.INFO, logger="service.access"):
        _, call = method(both.channel, "Classify").with_call(request, timeout=20)
        came = refused(both, top_k=0)
        until(lambda: len(caplog.messages) == 2)

    request_id = dict(call.trailing_metadata())["x-request-id"]
    good, bad = caplog.messages
    assert good.startswith('127.0.0.1 "gRPC /gpusq.v1.Vision/Classify" OK ')
    assert good.endswith(f" ms {request_id}")
    assert " INVALID_ARGUMENT " in bad
    assert bad.endswith(f" ms {came.request_id}")


def test_a_client_that_hangs_up_frees_its_place_and_ends_the_work(
    both: Both, executor: FakeExecutor, red_jpeg: bytes
):
    executor.gate = Never()  # type: ignore[assignment]
    request = message("Classify", image=red_jpeg)
    waiting = [method(both.channel, "Classify").future(request) for _ in range(2)]
    until(lambda: "gpusq_in_flight 2.0" in both.rest.get("/metrics").text)

    with counted(both, cancelled=2):
        for call in waiting:
            call.cancel()
        until(lambda: "gpusq_in_flight 0.0" in both.rest.get("/metrics").text)

    assert executor.cancelled == executor.calls
    executor.gate = None
    assert classify(both, red_jpeg).predictions[0].label == "red"


def test_the_deadline_of_a_call_reaches_the_network(
    both: Both, executor: FakeExecutor, red_jpeg: bytes
):
    executor.gate = Never()  # type: ignore[assignment]
    request = message("Classify", image=red_jpeg)

    with pytest.raises(grpc.RpcError) as raised:
        method(both.channel, "Classify")(request, timeout=0.4)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (timeout_s,) = executor.timeouts_s
    assert timeout_s is not None
    # Clocks are read to a millisecond at both ends.
    assert 0 < timeout_s < 0.5
    until(lambda: "gpusq_in_flight 0.0" in both.rest.get("/metrics").text)
    assert executor.cancelled == 1


def test_one_call_too_many_is_refused_before_its_message_comes(both: Both):
    # Two that are answered, and eight whose message is on its way.
    with calls_without_a_message(both, 11) as waiting:
        until(lambda: any(call.done() for call in waiting))
        (turned_away,) = (call for call in waiting if call.done())
        came = failed(turned_away.result)

    assert (came.status, came.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
    assert came.retry_after == "1"
    assert came.timings_ms.keys() == {"total"}


def test_a_fault_of_our_own_gives_nothing_away(
    both: Both, executor: FakeExecutor, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    executor.error = ZeroDivisionError("/a/secret/path")  # type: ignore[assignment]
    came = refused(both, image=red_jpeg)

    assert (came.status, came.code) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in came.detail
    assert f"request {came.request_id} failed" in caplog.messages
    assert "ZeroDivisionError" in caplog.text


def test_what_will_not_help_is_not_tried_again_by_a_client_that_retries(
    both: Both, red_jpeg: bytes
):
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    options = [("grpc.service_config", json.dumps(config))]
    with grpc.insecure_channel(both.app.state.rpc.address, options) as channel:
        request = message("Classify", image=bytes(MAX_BODY_BYTES + 1))
        with counted(both, too_many_bytes=1):
            assert failed(method(channel, "Classify"), request, timeout=20).code == "too_many_bytes"


def test_a_sentence_is_cut_where_clients_would_lose_it(both: Both, executor: FakeExecutor):
    executor.unavailable = {"late": "ü" * 9000}
    both.app.state.gateway.catalogue.take_up()

    came = refused(both, model="late")
    executor.unavailable = {}
    both.app.state.gateway.catalogue.take_up()

    assert (came.status, came.code) == (grpc.StatusCode.UNAVAILABLE, "model_unavailable")
    assert came.detail.endswith("üü…")


def test_calls_are_counted_as_requests_are(both: Both, red_jpeg: bytes):
    with counted(both, ok=1, invalid_argument=1, unknown_model=1):
        classify(both, red_jpeg)
        refused(both, top_k=0)
        refused(both, "Detect", image=red_jpeg)
        method(both.channel, "ListModels")(messages.ListModelsRequest(), timeout=20)


def test_a_guard_refuses_a_call_before_its_message_comes(serve: Serve):
    async def check(call: Call) -> None:
        if call.metadata.get("key") != "open":
            raise GatewayError(Code.WRONG_TASK, f"No {call.method}.")

    with calling.both(serve, Settings(), FakeExecutor(), check) as both:
        with counted(both, wrong_task=1), calls_without_a_message(both, 1) as (call,):
            assert failed(call.result).detail == "No /gpusq.v1.Vision/Classify."
        ask = method(both.channel, "ListModels")
        failed(ask, messages.ListModelsRequest(), timeout=20)
        assert ask(messages.ListModelsRequest(), timeout=20, metadata=[("key", "open")]).models


def test_health_follows_the_models(both: Both, executor: FakeExecutor):
    stub = health_pb2_grpc.HealthStub(both.channel)
    services = [health_pb2.HealthCheckRequest(service=name) for name in ("", "gpusq.v1.Vision")]
    watching = [stub.Watch(service, timeout=20) for service in services]
    catalogue, models = both.app.state.gateway.catalogue, executor.models

    def all_say(status: int) -> None:
        assert {stub.Check(service, timeout=20).status for service in services} == {status}
        assert {next(watch).status for watch in watching} == {status}

    all_say(SERVING)
    executor.models, executor.unavailable = {}, {"colours": "It was taken away."}
    catalogue.take_up()
    all_say(NOT_SERVING)
    executor.models, executor.unavailable = models, {}
    catalogue.take_up()
    all_say(SERVING)


def test_health_knows_no_other_service(both: Both):
    stub = health_pb2_grpc.HealthStub(both.channel)
    request = health_pb2.HealthCheckRequest(service="gpusq.v2.Vision")

    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(request, timeout=20)

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    said = next(stub.Watch(request, timeout=20))
    assert said.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_those_who_watch_leave_room_for_those_who_ask(both: Both, red_jpeg: bytes):
    stub, asked = health_pb2_grpc.HealthStub(both.channel), health_pb2.HealthCheckRequest()
    watching = [stub.Watch(asked, timeout=60) for _ in range(200)]
    try:
        until(lambda: sum(watch.done() for watch in watching) == 200 - 64)
        answer = method(both.channel, "Classify")(
            messages.ClassifyRequest(image=red_jpeg), timeout=20
        )
        assert answer.predictions
        refused = next(watch for watch in watching if watch.done())
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "64 streams are open" in refused.details()
    finally:
        for watch in watching:
            watch.cancel()


def test_whoever_watches_and_whoever_reflects_hears_of_a_stop(serve: Serve):
    loops, ended = [], threading.Event()

    async def look(_call: Call) -> None:
        loops.append(asyncio.get_running_loop())

    def nothing() -> Iterator[Any]:
        ended.wait(10)
        yield from ()

    with calling.both(serve, Settings(), FakeExecutor(), look) as both:
        watching = health_pb2_grpc.HealthStub(both.channel).Watch(health_pb2.HealthCheckRequest())
        reflecting = reflection_pb2_grpc.ServerReflectionStub(both.channel)
        asking = reflecting.ServerReflectionInfo(nothing())
        assert next(watching).status == SERVING
        until(lambda: len(loops) == 2)
        began = time.monotonic()
        asyncio.run_coroutine_threadsafe(both.app.state.rpc.stop(), loops[0])
        assert [said.status for said in watching] == [NOT_SERVING]
        assert list(asking) == []
        # A stop waits 25 s for calls.
        assert time.monotonic() - began < 5
        ended.set()


def test_reflection_describes_the_services(both: Both):
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="gpusq.v1.Vision"),
    ]
    stub = reflection_pb2_grpc.ServerReflectionStub(both.channel)

    listed, described = stub.ServerReflectionInfo(iter(asked), timeout=20)

    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"gpusq.v1.Vision", "grpc.health.v1.Health"}
    (file,) = described.file_descriptor_response.file_descriptor_proto
    (service,) = descriptor_pb2.FileDescriptorProto.FromString(file).service
    assert [method.name for method in service.method] == list(calling.REQUESTS)


def test_the_address_says_where_it_is(both: Both):
    host, port = both.app.state.rpc.address.rsplit(":", 1)

    assert (host, int(port)) == ("127.0.0.1", both.app.state.rpc.port)
    assert Path(messages.__file__).with_name("vision.proto").is_file()
