"""Too many clients, clients that leave, and faults of our own: a real server, a fake executor."""

from __future__ import annotations

import asyncio
import socket
import time

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.service.asking import label, post, problem
from tests.service.fakes import FakeExecutor


def test_an_overloaded_service_says_when_to_try_again(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    settings = Settings(decode_threads=1, queue_limit=0)
    with (
        serve(create_app(settings, executor)) as client,
        _slow_upload(client),
        _slow_upload(client),
    ):
        answer = _when_admitted(client, red_jpeg, 2)

    problem(answer, 429, "overloaded")
    assert answer.headers["retry-after"] == "1"


def test_a_client_that_leaves_frees_its_place(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    settings = Settings(decode_threads=1, queue_limit=0)
    with serve(create_app(settings, executor)) as client:
        with _slow_upload(client), _slow_upload(client):
            problem(_when_admitted(client, red_jpeg, 2), 429, "overloaded")
        _await_in_flight(client, 0)
        assert label(post(client, red_jpeg)) == "red"
        assert 'outcome="cancelled"' in client.get("/metrics").text


def test_a_client_that_leaves_while_the_network_runs_cancels_it(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    executor.gate = _Never()  # type: ignore[assignment]
    with serve(create_app(Settings(deadline_s=30), executor)) as client:
        with _upload(client, red_jpeg, declared=len(red_jpeg)):
            _await_in_flight(client, 1)
            while not executor.calls:
                time.sleep(0.005)
        _await_in_flight(client, 0)

    assert executor.cancelled == 1


def test_an_answer_after_the_deadline_says_what_took_so_long(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    executor.gate = _Never()  # type: ignore[assignment]
    with serve(create_app(Settings(deadline_s=0.5), executor)) as client:
        body = problem(post(client, red_jpeg), 504, "deadline_exceeded")

    timings_ms = body["timings_ms"]
    assert list(timings_ms) == ["read", "decode", "preprocess", "queue", "infer", "total"]
    assert timings_ms["infer"] > 100


def test_a_client_says_how_long_it_waits(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    executor.gate = _Never()  # type: ignore[assignment]
    with serve(create_app(Settings(deadline_s=30), executor)) as client:
        headers = {"Content-Type": "image/jpeg", "X-Request-Timeout": "0.3"}
        answer = client.post("/v1/classify", content=red_jpeg, headers=headers)

    assert "within 0.3 s" in problem(answer, 504, "deadline_exceeded")["detail"]
    assert executor.cancelled == 1


@pytest.mark.parametrize("came", ["soon", "0", "-1", "nan"])
def test_a_time_that_is_none_is_refused(serve: Serve, red_jpeg: bytes, came: str):
    with serve(create_app(Settings(), FakeExecutor())) as client:
        headers = {"Content-Type": "image/jpeg", "X-Request-Timeout": came}
        answer = client.post("/v1/classify", content=red_jpeg, headers=headers)

    detail = problem(answer, 422, "invalid_argument")["detail"]
    assert detail.startswith(f"X-Request-Timeout: expected seconds, more than 0, got '{came}'")


def test_a_fault_of_our_own_is_a_problem_that_gives_nothing_away(
    serve: Serve, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    executor = FakeExecutor()
    executor.error = ZeroDivisionError("/a/secret/path")  # type: ignore[assignment]
    with serve(create_app(Settings(), executor)) as client:
        answer = post(client, red_jpeg)
        executor.error = None
        assert label(post(client, red_jpeg)) == "red"

    body = problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert body["instance"].removeprefix("urn:uuid:") in caplog.text
    assert "ZeroDivisionError" in caplog.text


class _Never:
    async def wait(self) -> None:
        await asyncio.Event().wait()


def _upload(client: httpx.Client, data: bytes, declared: int) -> socket.socket:
    """Begin a request on a connection of its own; closing it is leaving."""
    raw = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {declared}\r\n"
    raw.sendall(head.encode() + b"Content-Type: image/png\r\n\r\n" + data)
    return raw


def _slow_upload(client: httpx.Client) -> socket.socket:
    return _upload(client, b"x", declared=1000)


def _await_in_flight(client: httpx.Client, count: int) -> None:
    until = time.monotonic() + 5
    while f"gpusq_in_flight {count}.0" not in client.get("/metrics").text:
        assert time.monotonic() < until
        time.sleep(0.005)


def _when_admitted(client: httpx.Client, data: bytes, count: int) -> httpx.Response:
    _await_in_flight(client, count)
    return post(client, data)


def test_what_is_refused_at_once_is_counted_and_keeps_its_headers(serve: Serve, red_jpeg: bytes):
    settings = Settings(decode_threads=1, queue_limit=0)
    with (
        serve(create_app(settings, FakeExecutor())) as client,
        _slow_upload(client),
        _slow_upload(client),
    ):
        answer = _when_admitted(client, red_jpeg, 2)
        # Whatever asks no network is answered.
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/classify").status_code == 405
        metrics = client.get("/metrics").text

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (
        'gpusq_requests_total{model="colours",outcome="overloaded",task="classify"} 1.0' in metrics
    )
    assert 'gpusq_sheds_total{reason="requests"} 1.0' in metrics
