"""Asks for the key of a request before anything else of it is read. What is not open is closed."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asked

from service.errors import GatewayError
from service.rest import inference, problems
from service.security import keys
from service.security.gatekeeper import Gatekeeper
from service.security.keys import Scope

# Probes, and what the page needs before anybody can type a key into it.
OPEN: Final = frozenset(
    {
        *("/", "/docs", "/openapi.json", "/favicon.ico", "/healthz", "/readyz"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)
_ASSETS: Final = "/assets/"
_MODELS: Final = "/v2/models/"
# Lists the models, though by POST.
_INDEX: Final = "/v2/repository/index"
METRICS: Final = "/metrics"


class Guard:
    """Wrap an application.

    Args:
        app: What answers.
        gatekeeper: Knows the keys.
        metrics_need_key: Whether the metrics are closed too.
    """

    def __init__(self, app: ASGIApp, gatekeeper: Gatekeeper, *, metrics_need_key: bool) -> None:
        self._app = app
        self._gatekeeper = gatekeeper
        self._metrics_need_key = metrics_need_key

    async def __call__(self, scope: Asked, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] == "http" and (refusal := self._refusal(Request(scope))) is not None:
            inference.count_refusal(Request(scope), refusal.code.value)
            await problems.answer(Request(scope), refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> GatewayError | None:
        # Not request.url: its path depends on what the header Host says.
        path = request.scope["path"]
        needed = scope_of(request.method, path, metrics_need_key=self._metrics_need_key)
        if needed is None:
            return None
        headers = request.headers
        key = keys.presented(headers.get("authorization"), headers.get("x-api-key"))
        client = request.client.host if request.client else ""
        try:
            self._gatekeeper.admit(key, needed, _model(request), client)
        except GatewayError as error:
            return error
        return None


def scope_of(method: str, path: str, *, metrics_need_key: bool) -> Scope | None:
    """Return what a request needs a key for; None where it needs none.

    Args:
        method: HEAD counts as GET.
        path: Decoded, as it is routed.
        metrics_need_key: Whether the metrics are closed too.

    >>> scope_of("POST", "/v1/classify", metrics_need_key=False).value
    'infer'
    >>> scope_of("GET", "/v1/models", metrics_need_key=False).value
    'models'
    >>> scope_of("GET", "/healthz", metrics_need_key=False)
    """
    if path in OPEN or path.startswith(_ASSETS):
        return None
    if path == METRICS:
        return Scope.METRICS if metrics_need_key else None
    return Scope.MODELS if method in ("GET", "HEAD") or path == _INDEX else Scope.INFER


def _model(request: Request) -> str | None:
    path = request.scope["path"]
    if path.startswith(_MODELS):
        return str(path.removeprefix(_MODELS).partition("/")[0])
    return request.query_params.get("model")
