"""A refusal arrives at clients that send all of a large body first, and nobody sends for ever."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from service.app import create_app
from service.rest.linger import Linger
from service.settings import Settings
from tests.conftest import Serve
from tests.service.fakes import FakeExecutor

# Far beyond what the buffers of two sockets hold.
LARGE = b"x" * 11_000_000


@pytest.fixture(scope="module")
def address(serve: Serve) -> Iterator[str]:
    with serve(create_app(Settings(), FakeExecutor())) as client:
        yield str(client.base_url).rstrip("/")


def in_pieces() -> Iterator[bytes]:
    return itertools.repeat(LARGE[:100_000], 250)


REFUSED: dict[str, tuple[str, Any, str, int, str]] = {
    "too large": ("", LARGE, "image/jpeg", 413, "too_many_bytes"),
    "too large, of no declared length": ("", in_pieces, "image/jpeg", 413, "too_many_bytes"),
    "a parameter": ("?top_k=0", LARGE[:9_000_000], "image/jpeg", 422, "invalid_argument"),
    "a model": ("?model=none", LARGE[:9_000_000], "image/jpeg", 404, "unknown_model"),
    "a content type": ("", LARGE[:9_000_000], "text/plain", 415, "unsupported_media"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_client_that_sends_first_and_reads_later_gets_the_refusal(address: str, why: str):
    query, data, kind, status, code = REFUSED[why]
    request = urllib.request.Request(
        f"{address}/v1/classify{query}",
        data=data() if callable(data) else data,
        headers={"Content-Type": kind},
        method="POST",
    )

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=20)

    with caught.value as answer:
        assert answer.code == status
        assert json.load(answer)["code"] == code


class Peer:
    """A client that sends pieces, for ever or until it falls silent, and keeps what it gets."""

    def __init__(self, pieces: float) -> None:
        self.sent = 0
        self.got: list[dict[str, Any]] = []
        self._pieces = pieces

    async def receive(self) -> dict[str, Any]:
        if self.sent >= self._pieces:
            await asyncio.Event().wait()
        self.sent += 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def send(self, message: Any) -> None:
        self.got.append(message)

    async def ask(self, **limits: float) -> None:
        scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
        await Linger(refuse, **limits)(scope, self.receive, self.send)  # type: ignore[arg-type]


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


@pytest.mark.parametrize(
    ("pieces", "limits", "sent"),
    [
        (float("inf"), {"max_bytes": 95}, 10),
        (5, {"idle_s": 0.01}, 5),
    ],
)
def test_no_more_is_taken_than_the_limits_say(pieces: float, limits: dict[str, float], sent: int):
    peer = Peer(pieces)

    asyncio.run(peer.ask(**limits))

    assert peer.sent == sent
    assert peer.got[1] == {"type": "http.response.body", "body": b"no", "more_body": True}
    assert peer.got[2:] == [{"type": "http.response.body"}]


def test_a_client_that_sends_for_ever_is_cut_off_in_time():
    peer = Peer(float("inf"))
    started = time.monotonic()

    asyncio.run(peer.ask(max_s=0.05))

    assert 0.05 <= time.monotonic() - started < 5
    assert peer.got[2:] == [{"type": "http.response.body"}]
