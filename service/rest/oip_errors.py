"""Errors as the Open Inference Protocol has them: a status and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson
from fastapi import Request, Response

PREFIX: Final = "/v2"
# The protocol knows one status for whatever is wrong with a request.
_WRONG: Final = (HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


def speaks(request: Request) -> bool:
    """Whether a request is one of the protocol."""
    path: str = request.scope["path"]
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def status_of(status: int) -> int:
    """Return the protocol's status for one of `/v1`.

    >>> int(status_of(422)), int(status_of(429))
    (400, 429)
    """
    return HTTPStatus.BAD_REQUEST if status in _WRONG else status


def respond(status: int, said: str, headers: Mapping[str, str]) -> Response:
    """Return one error."""
    body = orjson.dumps({"error": said})
    return Response(body, status_of(status), dict(headers), "application/json")
