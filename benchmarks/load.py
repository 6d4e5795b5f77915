"""A client that costs little: many connections, one process, requests that are made beforehand.

Two loads: closed, where each of so many askers waits for its answer before it asks again; and open,
where requests come at a rate whether or not anything is answered, as from people. Latency of the
open load is counted from when a request was due, so that a client that falls behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

import httptools

# What has no answer: the connection was refused, or ended after the request was sent.
REFUSED: Final = "no connection"
LOST: Final = "no answer"
# Longer than any deadline: whoever has no answer by then never gets one.
PATIENCE_S: Final = 40.0


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    Args:
        outcome: "ok", a problem's code or a status, :data:`REFUSED` or :data:`LOST`.
        began_s: When it was due, on the clock of time.perf_counter.
        seconds: From then to its answer, or to its end.
        retry_after: Whether the answer said when to try again.
    """

    outcome: str
    began_s: float
    seconds: float
    retry_after: bool = False

    @property
    def ok(self) -> bool:
        """Whether it was answered as wanted."""
        return self.outcome == "ok"

    @property
    def ended_s(self) -> float:
        """When its answer came, on the clock of time.perf_counter."""
        return self.began_s + self.seconds


class Client(Protocol):
    """Asks one service."""

    async def ask(self, number: int) -> tuple[str, bool]:
        """Send request ``number``; return the outcome, and whether it says when to try again."""

    async def close(self) -> None:
        """End its connections."""


def post(path: str, body: bytes, content_type: str, host: str = "127.0.0.1") -> bytes:
    """Return the bytes of one HTTP request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def form(picture: bytes, field: str) -> tuple[bytes, str]:
    """Return a multipart form with one picture, and its content type."""
    boundary = "a-boundary-that-no-picture-has"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


class HttpClient:
    """Keeps connections open, and opens more when all are busy.

    Args:
        port: On the loopback.
        requests: Each as :func:`post` makes it; asked for by number, round and round.
    """

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._idle: collections.deque[_Connection] = collections.deque()

    async def ask(self, number: int) -> tuple[str, bool]:
        """Send one request on a connection that has nothing else to do."""
        try:
            connection = await self._connection()
        except OSError:
            return REFUSED, False
        try:
            answer = await connection.ask(self._requests[number % len(self._requests)])
        except (ConnectionError, httptools.HttpParserError):
            connection.close()
            return LOST, False
        if answer.keep_alive:
            self._idle.append(connection)
        else:
            connection.close()
        return answer.outcome, "retry-after" in answer.headers

    async def close(self) -> None:
        """End its connections."""
        while self._idle:
            self._idle.pop().close()
        # Connections end when the loop comes to them.
        await asyncio.sleep(0)

    async def _connection(self) -> _Connection:
        while self._idle:
            # The one that was used last: it is the least likely to have been closed meanwhile.
            connection = self._idle.pop()
            if not connection.ended:
                return connection
        _, made = await asyncio.get_running_loop().create_connection(
            _Connection, "127.0.0.1", self._port
        )
        return made


class _Answer:
    """Collects what httptools reads of one answer."""

    def __init__(self, done: asyncio.Future[_Answer]) -> None:
        self.headers: dict[str, str] = {}
        self.status = 0
        self.keep_alive = True
        self._body = b""
        self._done = done
        self.parser = httptools.HttpResponseParser(self)

    @property
    def outcome(self) -> str:
        """Return "ok", or the code of a problem, or the status."""
        if 200 <= self.status < 300:
            return "ok"
        # Read by hand: a JSON parser would be the client's largest expense under overload.
        _, found, rest = self._body.partition(b'"code":"')
        return rest.partition(b'"')[0].decode() if found else str(self.status)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()
        if not self._done.done():
            self._done.set_result(self)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.ended = False
        self._answer: _Answer | None = None
        self._done: asyncio.Future[_Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one without saying so.
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> _Answer:
        """Send a request.

        Raises:
            ConnectionError: The connection ended before the answer did, or there was none for
                longer than anybody waits.
        """
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._answer = _Answer(self._done)
        self._transport.write(request)
        patience = loop.call_later(PATIENCE_S, self._fail, ConnectionError("no answer came"))
        try:
            return await self._done
        finally:
            patience.cancel()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            return
        try:
            self._answer.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._fail(ConnectionError(f"the connection ended: {exc}"))

    def close(self) -> None:
        """End it."""
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


async def closed(client: Client, concurrency: int, seconds: float) -> list[Reply]:
    """Ask with so many askers at once, for so long; return what came, in no order."""
    until = time.perf_counter() + seconds
    return await _askers(client, concurrency, lambda: time.perf_counter() < until)


async def counted(client: Client, concurrency: int, requests: int) -> list[Reply]:
    """Ask so many times with so many askers at once."""
    left = iter(range(requests))
    return await _askers(client, concurrency, lambda: next(left, None) is not None)


async def open_load(client: Client, rate: float, seconds: float, seed: int = 0) -> list[Reply]:
    """Ask at a rate, at random times as independent people would; return all that came."""
    # S311 does not apply: nothing is kept secret by these times.
    times = random.Random(seed)  # noqa: S311
    began = due = time.perf_counter()
    asking: list[asyncio.Task[Reply]] = []
    number = 0
    while (due := due + times.expovariate(rate)) < began + seconds:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        asking.append(asyncio.create_task(_one(client, number, due)))
        number += 1
        if not number % 16:
            # A loop that is behind would else never come to the answers.
            await asyncio.sleep(0)
    return list(await asyncio.gather(*asking))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of them does not exceed; not a number where none is.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


async def _askers(client: Client, concurrency: int, more: _More) -> list[Reply]:
    replies: list[Reply] = []

    async def asker(number: int) -> None:
        while more():
            replies.append(await _one(client, number, time.perf_counter()))
            number += concurrency

    await asyncio.gather(*(asker(number) for number in range(concurrency)))
    return replies


class _More(Protocol):
    def __call__(self) -> bool: ...


async def _one(client: Client, number: int, due_s: float) -> Reply:
    outcome, retry_after = await client.ask(number)
    return Reply(outcome, due_s, time.perf_counter() - due_s, retry_after)
