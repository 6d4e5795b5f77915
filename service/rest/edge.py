"""The outermost layer: a request id, one log line, security headers, and no bare 500."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Code, GatewayError
from service.gateway import Gateway
from service.rest import inference, problems

logger = logging.getLogger(__name__)
access = logging.getLogger("service.access")

# Probes come every few seconds and say nothing.
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class Edge:
    """Wrap an application.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = str(uuid.uuid4())
        inference.begin(scope)
        # HEAD is GET without a body, which the server leaves out by its own copy of the method.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        started = time.perf_counter()
        status = 0

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = scope["request_id"]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._leaving(scope):
                    # A connection that is closed at the stop may carry the next request already.
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(inner, receive, marked)
        except Exception:  # the edge: nothing else may turn a fault into an answer
            logger.exception("request %s failed", scope["request_id"])
            if not status:
                error = GatewayError(Code.INTERNAL, "The log has the reason, by this instance.")
                response = problems.answer(Request(inner), error)
                await response(inner, receive, marked)
        finally:
            _log(scope, status, time.perf_counter() - started)

    @staticmethod
    def _leaving(scope: Scope) -> bool:
        gateway: Gateway = scope["app"].state.gateway
        return gateway.leaving


def _log(scope: Scope, status: int, seconds: float) -> None:
    # The raw path is still percent-encoded, so no client can break the line.
    target = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
    if query := scope["query_string"].decode("ascii", "backslashreplace"):
        target = f"{target}?{query}"
    client = scope["client"][0] if scope.get("client") else "-"
    level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
    access.log(
        level,
        '%s "%s %s" %d %.1f ms %s',
        client,
        scope["method"],
        target,
        status,
        1000 * seconds,
        scope["request_id"],
    )
