"""What a connection may send without a request ever coming of it: a real server, raw bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
import uvicorn

from service import __main__ as command
from service.app import create_app
from service.rest.wire import MAX_HEAD_BYTES
from service.settings import Settings
from tests.service.fakes import FakeExecutor

PIECE = b"a" * 16_384
# More than the sockets of both sides hold, so that sending it shows that somebody reads.
ENDLESS_BYTES = 64_000_000
PATIENCE_S = 30.0
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[uvicorn.Server]:
    settings = Settings(max_body_bytes=1000)
    made = uvicorn.Server(command.configured(create_app(settings, FakeExecutor()), settings))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not made.started and thread.is_alive():
                time.sleep(0.005)
            yield made
        finally:
            made.should_exit = True
            thread.join()


@pytest.fixture
def connection(server: uvicorn.Server) -> Iterator[socket.socket]:
    address = server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, PATIENCE_S) as made:
        yield made


def sent_bytes(connection: socket.socket, piece: bytes) -> int:
    """Send until the other side has had enough, or for ever."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < ENDLESS_BYTES:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def status(connection: socket.socket) -> int:
    """Read one answer to its end."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET /?", PIECE),
        (b"GET / HTTP/1.1\r\nX-A: ", PIECE),
        (b"GET / HTTP/1.1\r\n", b"X-A: %s\r\n" % PIECE),
        (b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", PIECE),
        (
            b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-A: %s\r\n" % PIECE,
        ),
    ],
    ids=["line", "header", "headers", "chunk", "trailers"],
)
def test_what_never_becomes_a_request_ends_the_connection(
    connection: socket.socket, begun: bytes, piece: bytes
):
    connection.sendall(begun)

    assert sent_bytes(connection, piece) < ENDLESS_BYTES


def test_a_head_that_is_too_long_is_refused_in_words(connection: socket.socket):
    connection.sendall(b"GET / HTTP/1.1\r\n")
    # Not one more than is refused: what lies unread would reset the connection.
    for _ in range(4):
        connection.sendall(b"X-A: %s\r\n" % PIECE)

    assert status(connection) == 431


def test_a_long_head_in_many_pieces_is_answered(connection: socket.socket):
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    for _ in range(3):
        connection.sendall(b"X-A: %s\r\n" % PIECE)
    connection.sendall(b"\r\n")

    assert status(connection) == 200


def test_many_requests_on_one_connection_are_more_than_one_head(connection: socket.socket):
    count = 2 * MAX_HEAD_BYTES // len(GET)
    for _ in range(count):
        connection.sendall(GET)
        assert status(connection) == 200


def test_what_comes_after_a_refused_body_that_has_no_end_is_not_read(connection: socket.socket):
    connection.sendall(
        b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\nbegun"
    )
    assert status(connection) == 404

    # Nothing more came for a while, so the rest is not waited for.
    assert connection.recv(1) == b""


def test_a_refused_body_that_came_whole_leaves_the_connection_open(connection: socket.socket):
    connection.sendall(b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nwhole")
    assert status(connection) == 404

    connection.sendall(GET)

    assert status(connection) == 200


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
BODIES = {
    "length": (b"Content-Length: 5\r\n\r\n", b"whole"),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nwhole\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("pause_s", [0, 0.1], ids=["at once", "in pieces"])
@pytest.mark.parametrize("body", BODIES)
def test_who_offers_http_2_is_answered_in_http_1(
    connection: socket.socket, body: str, pause_s: float
):
    head, sent = BODIES[body]
    asked = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    if pause_s:
        connection.sendall(asked + OFFER + head)
        time.sleep(pause_s)
        connection.sendall(sent)
    else:
        connection.sendall(asked + OFFER + head + sent)

    answer = HTTPResponse(connection)
    answer.begin()
    said = json.loads(answer.read())
    assert said["code"] == "unsupported_media"
    assert "empty" not in said["detail"]
    assert answer.getheader("server-timing") is not None
    connection.sendall(GET)
    assert status(connection) == 200


def test_the_body_of_who_offers_http_2_is_no_request(connection: socket.socket):
    connection.sendall(b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(GET))
    connection.sendall(OFFER + b"\r\n")
    connection.sendall(GET)
    assert status(connection) == 404

    connection.sendall(b"GET /other HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n")

    # Were the body taken for a request, its answer would come first.
    assert status(connection) == 404
