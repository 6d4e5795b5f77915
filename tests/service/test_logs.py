"""Log lines: whole, in one piece whatever is in them, and each with the id of its request."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.errors import ModelError
from service.observe import exchange
from service.observe.access import Http, of_http
from service.observe.logs import JsonFormatter, TextFormatter
from service.settings import Settings
from tests.conftest import Serve
from tests.service import otlp
from tests.service.asking import JPEG
from tests.service.fakes import FakeExecutor

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Written = Callable[[], list[Any]]


@pytest.fixture
def written() -> Iterator[Written]:
    """Collect what is logged as JSON, down to debug; returns it, parsed."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def access(written: Written, count: int = 1) -> list[Any]:
    """Return the lines of requests; the last is written when its answer is already there."""
    end_s = time.monotonic() + 10
    while len(lines := [one for one in written() if one["logger"] == "service.access"]) < count:
        assert time.monotonic() < end_s, lines
        time.sleep(0.01)
    return lines


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def client(serve: Serve, executor: FakeExecutor) -> Iterator[httpx.Client]:
    with serve(create_app(Settings(deadline_s=30), executor)) as client:
        yield client


def test_a_request_has_one_line_with_everything_that_is_known_of_it(
    client: httpx.Client, written: Written, red_jpeg: bytes
):
    answer = client.post("/v1/classify?top_k=2", content=red_jpeg, headers=JPEG)

    [line] = access(written)
    assert RFC_3339.fullmatch(line.pop("time"))
    assert UUID.fullmatch(line["request_id"])
    duration_ms = line.pop("duration_ms")
    assert duration_ms >= answer.json()["timings_ms"]["total"]
    message = line.pop("message")
    assert message.startswith('127.0.0.1 "POST /v1/classify?top_k=2" 200 ')
    assert message.endswith(f" ms {line['request_id']}")
    assert line == {
        "level": "info",
        "logger": "service.access",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "path": "/v1/classify",
        "query": "top_k=2",
        "route": "/v1/classify",
        "status": 200,
        "bytes_received": len(red_jpeg),
        "bytes_sent": len(answer.content),
        "client": "127.0.0.1",
        "model": "colours",
        "version": 3,
        "task": "classify",
        "outcome": "ok",
    }


def test_a_refusal_has_its_code_and_no_model_that_does_not_exist(
    client: httpx.Client, written: Written
):
    client.post("/v1/classify?model=a%22%0Ab", headers=JPEG)

    [line] = access(written)
    assert (line["outcome"], line["task"], line["status"]) == ("unknown_model", "classify", 404)
    assert "model" not in line


def test_probes_are_logged_at_debug(client: httpx.Client, written: Written):
    client.get("/healthz")
    client.get("/v1/models")

    lines = access(written, 2)
    assert [(line["path"], line["level"]) for line in lines] == [
        ("/healthz", "debug"),
        ("/v1/models", "info"),
    ]
    assert "outcome" not in lines[1]


HOSTILE = (
    b"/%0d%0aX%22%7D",
    b"/%F0%9F%90%88?a=%ff%0A%22",
    b'/"{}\\\'?"}{',
    b"/" + b"a" * 3000,
)


def test_a_hostile_path_stays_one_line(client: httpx.Client, written: Written):
    address = (client.base_url.host, client.base_url.port)
    for path in HOSTILE:
        with socket.create_connection(address, timeout=10) as connection:
            head = b" HTTP/1.1\r\nHost: x\r\nX-Request-ID: a b\r\n\r\n"
            connection.sendall(b"GET " + path + head)
            assert connection.recv(100).startswith(b"HTTP/1.1 404 "), path

    lines = access(written, len(HOSTILE))
    assert len(lines) == len(HOSTILE)
    assert lines[0]["path"] == "/%0d%0aX%22%7D"
    assert lines[1]["query"] == "a=%ff%0A%22"
    for line in lines:
        assert UUID.fullmatch(line["request_id"])
        assert line["message"].isascii()
        assert "\n" not in line["message"]


def test_an_id_of_the_client_is_kept_in_answer_and_log(client: httpx.Client, written: Written):
    answer = client.post("/v1/classify?top_k=0", headers={**JPEG, "X-Request-ID": "order-17.b"})

    assert answer.headers["x-request-id"] == "order-17.b"
    assert answer.json()["instance"] == "urn:gpusq:request:order-17.b"
    [line] = access(written)
    assert line["request_id"] == "order-17.b"


@pytest.mark.parametrize("bad", ["", "a b", "-a", "a" * 65, 'a"', "é", "a\u2028", "a\n", "a/b"])
def test_an_id_that_is_no_short_token_is_replaced(bad: str):
    assert UUID.fullmatch(exchange.request_id(bad))


def test_an_id_that_is_sent_twice_is_replaced(client: httpx.Client):
    answer = client.get("/v1/models", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])

    assert UUID.fullmatch(answer.headers["x-request-id"])


def test_a_failure_is_one_line_with_its_traceback_and_the_id_of_its_request(
    client: httpx.Client, executor: FakeExecutor, written: Written, red_jpeg: bytes
):
    executor.error = ModelError("broken\nin two")

    answer = client.post("/v1/classify", content=red_jpeg, headers=JPEG)

    [failure] = [line for line in written() if line["level"] == "error"]
    assert failure["request_id"] == answer.headers["x-request-id"]
    assert failure["message"] == "model colours failed"
    assert "broken\nin two" in failure["exception"]
    assert failure["exception"].startswith("Traceback")


def test_what_a_thread_logs_for_a_request_has_its_id(
    client: httpx.Client, written: Written, red_jpeg: bytes
):
    pillow = logging.getLogger("PIL")
    before = pillow.level
    pillow.setLevel(logging.DEBUG)
    try:
        # Pillow says at debug which chunks of a PNG it reads.
        from PIL import Image  # noqa: PLC0415

        from tests.conftest import encoded  # noqa: PLC0415

        answer = client.post(
            "/v1/classify",
            content=encoded(Image.new("RGB", (9, 9))),
            headers={"Content-Type": "image/png"},
        )
    finally:
        pillow.setLevel(before)

    [*lines] = [line for line in written() if line["logger"].startswith("PIL")]
    assert lines
    assert {line["request_id"] for line in lines} == {answer.headers["x-request-id"]}


def test_lines_of_a_sampled_request_name_its_trace(serve: Serve, written: Written, red_jpeg: bytes):
    sampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with otlp.receiving() as receiver:
        settings = Settings(otlp_endpoint=receiver.url, trace_ratio=0, deadline_s=30)
        with serve(create_app(settings, FakeExecutor())) as client:
            client.post("/v1/classify", content=red_jpeg, headers={**JPEG, **sampled})
            client.post("/v1/classify", content=red_jpeg, headers=JPEG)

    first, second = access(written, 2)
    assert first["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "trace_id" not in second


def record(message: str, *arguments: Any, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("a", logging.INFO, "f", 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize("hostile", ["\ud800", "\x00\x1b[31m", "\u2028", '"}\n{"', "€"])
def test_any_text_comes_back_from_json_as_it_was(hostile: str):
    line = JsonFormatter().format(record("%s", hostile, fields={"path": Path("/a"), "x": hostile}))

    assert "\n" not in line
    said = json.loads(line)
    assert (said["message"], said["x"], said["path"]) == (hostile, hostile, "/a")


def test_the_text_of_a_line_within_a_request_ends_with_its_id_once():
    formatter = TextFormatter()
    outside = formatter.format(record("hello"))
    exchange.enter(exchange.Exchange("mine"))
    try:
        inside = formatter.format(record("hello"))
        named = formatter.format(record("request %s failed", "mine"))
    finally:
        exchange.leave()

    assert outside.endswith(" INFO a: hello")
    assert inside.endswith(" INFO a: hello mine")
    assert named.endswith(" INFO a: request mine failed")


def test_an_id_that_is_part_of_a_line_stands_at_its_end_too():
    exchange.enter(exchange.Exchange("e"))
    try:
        line = TextFormatter().format(record("hello %s", "there"))
    finally:
        exchange.leave()

    assert line.endswith(" INFO a: hello there e")


@pytest.mark.parametrize(
    ("client", "path", "start"),
    [
        ("::1", '/a" 200 1.0 ms b', '::1 "GET /a%22 200 1.0 ms b" 404'),
        ('1.2.3.4\x85" 200', "/a%0Ab", '1.2.3.4%C2%85%22 200 "GET /a%0Ab" 404'),
    ],
)
def test_a_client_ends_neither_a_line_nor_what_is_quoted_in_it(client: str, path: str, start: str):
    line = of_http(Http("GET", path, "", None, "http", client), 404, 0).line

    assert line == start


def test_the_command_writes_nothing_but_json_where_that_is_chosen(tmp_path: Path):
    script = (
        "import logging, warnings\n"
        "from service.observe import logs\n"
        "logs.configure('info', 'json')\n"
        "warnings.warn('old\\nnews', DeprecationWarning)\n"
        "logging.getLogger('uvicorn.error').warning('from %s', 'uvicorn')\n"
        "logging.getLogger('service').debug('never')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip

    first, second = (json.loads(line) for line in ran.stderr.splitlines())
    assert first["logger"] == "py.warnings"
    assert "old\nnews" in first["message"]
    assert (second["logger"], second["message"]) == ("uvicorn.error", "from uvicorn")
    assert ran.stdout == ""
