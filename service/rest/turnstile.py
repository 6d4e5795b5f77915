"""The innermost layer: while no further request can be taken, one for a network goes no further.

The gateway would refuse it too, after its route was found, its parameters were read and tasks were
begun for it; when most requests are refused, that work is missing where answers are made.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import GatewayError
from service.gateway import Gateway
from service.rest import inference, problems


class Turnstile:
    """Wrap an application.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "http" and scope["method"] == "POST" and "ledger" in scope:
            gateway: Gateway = scope["app"].state.gateway
            try:
                gateway.require_room()
            except GatewayError as error:
                request = Request(scope)
                inference.count_refusal(request, error.code.value)
                await problems.answer(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
