"""Take the rest of a body that was refused unread, so that the refusal arrives.

A connection that is closed while bytes lie unread is reset, and whoever sends a whole picture
before reading anything, as simple clients do, never sees the answer.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES: Final = 64_000_000
MAX_S: Final = 10.0
# A client that waits for the connection to end sends nothing more.
IDLE_S: Final = 1.0


class Linger:
    """Wrap an application that may answer before it has read.

    Args:
        app: What answers.
        max_bytes: How much is taken and thrown away at most.
        max_s: For how long at most.
        idle_s: How long to wait for the next piece.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int = MAX_BYTES,
        max_s: float = MAX_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once; end the answer once the body has been taken, or a limit reached."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        await self._app(scope, exchange.receive, exchange.send)
        if exchange.held:
            await self._drain(exchange)
            await send({"type": "http.response.body"})

    async def _drain(self, exchange: _Exchange) -> None:
        loop = asyncio.get_running_loop()
        until, taken = loop.time() + self._max_s, 0
        while exchange.unread and taken < self._max_bytes and (left := until - loop.time()) > 0:
            try:
                message = await asyncio.wait_for(exchange.receive(), min(left, self._idle_s))
            except asyncio.TimeoutError:
                return
            taken += len(message.get("body", b""))


class _Exchange:
    """One request and its answer; the end of the answer is held back while the body is unread."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.unread = True
        self.held = False
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        self.unread = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        if ends and self.unread:
            self.held = True
            # All of the answer is out: its length was declared.
            message = {**message, "more_body": True}
        await self._send(message)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
