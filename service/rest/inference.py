"""The routes that ask a network: what holds for each of their answers, refusals too."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from service.gateway import Gateway

PATHS: Final = frozenset({"/v1/classify"})


def count_refusal(request: Request, code: str) -> None:
    """Count a request that this transport refuses itself, if it was meant for a network."""
    if request.scope["path"] in PATHS:
        gateway: Gateway = request.app.state.gateway
        gateway.refused(request.query_params.get("model"), code)
