"""The routes that ask a network: what holds for each of their answers, refusals too."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from service.catalogue import TASKS
from service.gateway import Gateway
from service.ledger import Ledger

# Where each task is asked for.
PATHS: Final = {f"/v1/{task}": task for task in TASKS}
_TENSORS: Final = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")
HEADER: Final = "Server-Timing"
TIMEOUT: Final = "X-Request-Timeout"


def begin(scope: Scope) -> None:
    """Start the clock of a request, if it is meant for a network."""
    if scope["path"] in PATHS or _TENSORS.fullmatch(scope["path"]):
        scope["ledger"] = Ledger()


def ledger(request: Request) -> Ledger | None:
    """Return where the time of a request went; None where it was not meant for a network."""
    found: Ledger | None = request.scope.get("ledger")
    return found


def count_refusal(request: Request, code: str) -> None:
    """Count a request that this transport refuses itself, if it was meant for a network."""
    if ledger(request) is not None:
        gateway: Gateway = request.app.state.gateway
        task = PATHS.get(request.scope["path"])
        model = request.query_params.get("model") if task else request.path_params.get("model")
        gateway.refused(task, model, code)
