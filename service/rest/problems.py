"""Errors as RFC 9457 problems, `application/problem+json`. The one table from codes to HTTP."""

from __future__ import annotations

import uuid
from http import HTTPStatus
from typing import Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service import parameters
from service.errors import Code, GatewayError, GoneError, WrongTaskError
from service.ledger import server_timing
from service.rest import inference, oip_errors
from service.rest.problem import Problem

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final = {
    Code.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    Code.INVALID_ARGUMENT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.UNSUPPORTED_MEDIA: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Code.TOO_MANY_BYTES: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.TOO_MANY_PIXELS: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.BAD_IMAGE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Code.UNKNOWN_MODEL: HTTPStatus.NOT_FOUND,
    Code.WRONG_TASK: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.MODEL_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.EXECUTOR_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.QUOTA_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.FETCH_FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.READ_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
TITLES: Final = {
    Code.BAD_REQUEST: "The request is malformed",
    Code.INVALID_ARGUMENT: "A parameter is not as expected",
    Code.UNSUPPORTED_MEDIA: "This kind of content is not accepted",
    Code.TOO_MANY_BYTES: "The body is too large",
    Code.TOO_MANY_PIXELS: "The picture has too many pixels",
    Code.BAD_IMAGE: "The picture cannot be read",
    Code.UNAUTHENTICATED: "A valid API key is needed",
    Code.FORBIDDEN: "The API key is not for this",
    Code.UNKNOWN_MODEL: "There is no such model",
    Code.WRONG_TASK: "The model is for another task",
    Code.MODEL_UNAVAILABLE: "The model is unavailable",
    Code.EXECUTOR_UNAVAILABLE: "What runs the networks cannot be reached",
    Code.RATE_LIMITED: "Too many requests in a short time",
    Code.QUOTA_EXCEEDED: "The API key's requests of this day are used up",
    Code.OVERLOADED: "The service is busy",
    Code.FETCH_FAILED: "The picture cannot be fetched",
    Code.READ_TIMEOUT: "The body did not arrive in time",
    Code.DEADLINE_EXCEEDED: "There was no answer in time",
    Code.INTERNAL: "Something broke in the service",
}
_TIMEOUT: Final = "seconds, more than 0"
# What is left of a refused body would be read and thrown away before the next request.
_CLOSING: Final = frozenset({Code.TOO_MANY_BYTES, Code.READ_TIMEOUT})


def answer(request: Request, error: GatewayError) -> Response:
    """Return the problem that a gateway error is."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.code in _CLOSING:
        headers["Connection"] = "close"
    code = error.code
    return respond(request, STATUS[code], code.value, TITLES[code], _detail(error), headers)


def describe(request: Request, error: GatewayError) -> Problem:
    """Return the problem of one of several pictures of a request."""
    return _problem(
        request, STATUS[error.code], error.code.value, TITLES[error.code], _detail(error)
    )


def respond(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return one problem, with the time it took where a network was asked."""
    headers = dict(headers or {})
    timings_ms = None
    if (ledger := inference.ledger(request)) is not None:
        timings_ms = ledger.timings_ms()
        headers[inference.HEADER] = server_timing(timings_ms)
    if oip_errors.speaks(request):
        return oip_errors.respond(status, detail, headers)
    problem = _problem(request, status, code, title, detail)
    problem.timings_ms = timings_ms
    body = orjson.dumps(problem.model_dump(exclude_none=True))
    return Response(body, status, headers, MEDIA_TYPE)


def _problem(request: Request, status: int, code: str, title: str, detail: str) -> Problem:
    return Problem(
        type=f"urn:gpusq:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=_instance(request.scope["request_id"]),
        code=code,
    )


def _detail(error: GatewayError) -> str:
    if isinstance(error, WrongTaskError):
        return f"{error.detail} Send the picture to /v1/{error.task}, or name one of those."
    return error.detail


def _instance(request_id: str) -> str:
    """Return the name of one request: its id, made here or chosen by the client."""
    try:
        made_here = str(uuid.UUID(request_id)) == request_id
    except ValueError:
        made_here = False
    return f"urn:uuid:{request_id}" if made_here else f"urn:gpusq:request:{request_id}"


def install(app: FastAPI) -> None:
    """Make every error of an application a problem, the framework's own too."""
    app.exception_handler(GatewayError)(_gateway_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(GoneError)(_client_gone)


async def _gateway_error(request: Request, error: GatewayError) -> Response:
    return answer(request, error)


async def _validation_error(request: Request, error: RequestValidationError) -> Response:
    task, others = inference.PATHS.get(request.scope["path"]), {inference.TIMEOUT: _TIMEOUT}
    refusal = parameters.refusal(task, error.errors(), others)
    inference.count_refusal(request, refusal.code.value)
    return answer(request, refusal)


async def _client_gone(_request: Request, _error: GoneError) -> Response:
    # Nobody reads it; the access log shows it, as nginx has it.
    return Response(status_code=499)


async def _http_error(request: Request, error: HTTPException) -> Response:
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    detail = f"{request.method} {request.scope['path']}: {error.detail}. See /docs."
    if allowed := (error.headers or {}).get("Allow", (error.headers or {}).get("allow")):
        detail = f"Expected {allowed} at {request.scope['path']}, got {request.method}. See /docs."
    if error.status_code == HTTPStatus.NOT_FOUND and (path := _without_slash(request)):
        detail = f"There is no {request.scope['path']}: ask {path}, without the slash at the end."
    headers = dict(error.headers or {})
    inference.count_refusal(request, code)
    return respond(request, error.status_code, code, phrase, detail, headers)


def _without_slash(request: Request) -> str | None:
    """Return the path that was meant by one with a slash too many."""
    path = request.scope["path"].rstrip("/")
    if path in ("", request.scope["path"]):
        return None
    asked = {**request.scope, "path": path}
    matches = (route.matches(asked)[0] for route in request.app.routes)
    return path if any(match is not Match.NONE for match in matches) else None
