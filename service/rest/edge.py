"""The outermost layer: every request is seen, gets security headers, and never a bare 500."""

from __future__ import annotations

import logging
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Code, GatewayError
from service.gateway import Gateway
from service.observe import access
from service.observe.exchange import Exchange
from service.observe.observer import Observer, asked
from service.rest import headers, inference, problems

logger = logging.getLogger(__name__)

# Probes come every few seconds and say nothing.
_QUIET: Final = frozenset(
    {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
)


class Edge:
    """Wrap an application.

    Args:
        app: What answers.
        observer: Sees every request.
        tls: Whether it answers over TLS alone.
    """

    def __init__(self, app: ASGIApp, observer: Observer, *, tls: bool = False) -> None:
        self._app = app
        self._headers = headers.of_answers(tls=tls)
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        quiet, given = scope["path"] in _QUIET, Headers(scope=scope)
        with self._observer.exchange(asked(given.items()), traced=not quiet) as exchange:
            scope["request_id"] = exchange.request_id
            inference.begin(scope)
            exchange.ledger = scope.get("ledger")
            # HEAD is GET without a body, which the server leaves out by its own copy of the method.
            inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            seen = _Seen(exchange, scope, receive, _with(self._headers, send))
            try:
                await self._answer(inner, seen)
            finally:
                request = _described(scope, inner, seen.received_bytes)
                # The server leaves the body out.
                sent_bytes = 0 if scope["method"] == "HEAD" else seen.sent_bytes
                exchange.ended = access.of_http(request, seen.status, sent_bytes, quiet=quiet)

    async def _answer(self, scope: Scope, seen: _Seen) -> None:
        try:
            await self._app(scope, seen.receive, seen.send)
        except Exception:  # the edge: nothing else may turn a fault into an answer
            logger.exception("request %s failed", scope["request_id"])
            if not seen.status:
                error = GatewayError(Code.INTERNAL, "The log has the reason, by this instance.")
                response = problems.answer(Request(scope), error)
                await response(scope, seen.receive, seen.send)


def _with(own: headers.Raw, send: Send) -> Send:
    """Return what sends an answer with these headers, but for those that it has itself."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            has = {name for name, _ in given}
            message["headers"] = given + [header for header in own if header[0] not in has]
        await send(message)

    return marked


class _Seen:
    """What passes of one request and its answer."""

    def __init__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        self.status = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self._exchange = exchange
        self._scope = scope
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        self.received_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = MutableHeaders(scope=message)
            own["X-Request-ID"] = self._exchange.request_id
            if self._leaving():
                # A connection that is closed at the stop may carry the next request already.
                own["Connection"] = "close"
        self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    def _leaving(self) -> bool:
        gateway: Gateway = self._scope["app"].state.gateway
        return gateway.leaving


def _described(scope: Scope, inner: Scope, received_bytes: int) -> access.Http:
    headers = Headers(scope=scope)
    return access.Http(
        method=scope["method"],
        # As it came, percent-encoded.
        path=scope.get("raw_path", b"").decode("ascii", "backslashreplace"),
        query=scope["query_string"].decode("ascii", "backslashreplace"),
        route=getattr(inner.get("route"), "path", None),
        scheme=scope["scheme"],
        client=scope["client"][0] if scope.get("client") else None,
        user_agent=headers.get("user-agent"),
        received_bytes=received_bytes,
    )
