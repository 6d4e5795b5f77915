"""What FastAPI cannot infer of the routes of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field

from service.errors import Code
from service.oip.describe import Json
from service.rest.inference import HEADER
from service.rest.oip_body import HEADER_LENGTH
from service.rest.oip_errors import status_of
from service.rest.oip_messages import InferRequest
from service.rest.problems import STATUS, TITLES

Responses = dict[int | str, dict[str, Any]]

_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}
_NUMBER: Final = {"schema": {"type": "integer"}}
_BUSY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GATEWAY_TIMEOUT)


# Only where keys are asked for.
_KEYS: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class InferError(BaseModel):
    """Why a request has no answer."""

    error: str = Field(description="What was expected, what came, what to do.")


class InferOutputTensor(BaseModel):
    """One output tensor."""

    name: str
    datatype: str = Field(description="BOOL, UINT8, INT32, INT64, FP16 or FP32.")
    shape: list[int]
    parameters: dict[str, int] | None = Field(
        None, description="`binary_data_size`, where it comes behind the JSON."
    )
    data: list[Any] | None = Field(None, description="The values row by row, flat.")


class InferResponse(BaseModel):
    """What a network gave."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutputTensor]


def parameters(names: Iterable[str]) -> Json:
    """Describe parameters in the path."""
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    }


def _refusals(*codes: Code) -> Responses:
    """Describe what is answered instead, by status."""
    statuses = {int(status_of(STATUS[code])) for code in codes}
    return {status: {"model": InferError, **refusal(status, codes)} for status in sorted(statuses)}


def refusal(status: int, codes: Iterable[Code] = tuple(Code)) -> Json:
    """Describe one status.

    Args:
        status: Which.
        codes: Of the errors that may come.
    """
    titles = [TITLES[code].lower() for code in codes if status_of(STATUS[code]) == status]
    described: Json = {
        "description": "; ".join(titles),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferError"}}},
    }
    if status in _BUSY:
        described["headers"] = {"Retry-After": {"description": "Seconds to wait.", **_NUMBER}}
    if status == HTTPStatus.UNAUTHORIZED:
        text = {"description": "`Bearer`.", "schema": {"type": "string"}}
        described["headers"] = {"WWW-Authenticate": text}
    return described


def schemas() -> Json:
    """Return the schemas that a body described by hand refers to, by name."""
    whole = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**whole.pop("$defs"), "InferRequest": whole}


REQUEST_BODY: Final[Json] = {
    "requestBody": {
        "required": True,
        "description": f"JSON; or JSON whose length {HEADER_LENGTH} has, and tensors as bytes "
        "behind it. With a length of 0 the body is one encoded picture.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": _BYTES,
        },
    }
}
INDEX_BODY: Final[Json] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}
            }
        },
    }
}
INFERRED: Final[Responses] = {
    200: {
        "description": f"The outputs: JSON; or, where {HEADER_LENGTH} has its length, bytes behind "
        "it.",
        "model": InferResponse,
        "content": {"application/octet-stream": _BYTES},
        "headers": {
            HEADER: {"description": "Where the time went.", "schema": {"type": "string"}},
            HEADER_LENGTH: {"description": "Bytes of JSON.", **_NUMBER},
        },
    },
    **_refusals(*(code for code in Code if STATUS[code] not in _KEYS)),
}
UNKNOWN: Final = _refusals(
    Code.INVALID_ARGUMENT,
    Code.UNKNOWN_MODEL,
    Code.MODEL_UNAVAILABLE,
    Code.EXECUTOR_UNAVAILABLE,
)
REFUSED: Final = _refusals(Code.INVALID_ARGUMENT, Code.TOO_MANY_BYTES)
NOT_READY: Final[Responses] = {503: {"description": "It is not ready."}}
