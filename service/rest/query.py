"""What HTTP adds to the parameters of a request: they come in its query and its headers.

They are read here and not by FastAPI, which would take longer for it than for all the rest of a
request; so what it would document is said here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError

from service import parameters
from service.parameters import Parameters
from service.rest import inference

ParametersT = TypeVar("ParametersT", bound=Parameters)

_SECONDS: Final[TypeAdapter[float]] = TypeAdapter(Annotated[float, Field(gt=0)])
_TIMEOUT: Final[Mapping[str, Any]] = {
    "name": inference.TIMEOUT,
    "in": "header",
    "required": False,
    "description": "Seconds after which the client no longer waits.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def chosen(request: Request, kind: type[ParametersT]) -> ParametersT:
    """Return what the query of a request chooses.

    Raises:
        RequestValidationError: Names each parameter that is not as expected, is not known, or comes
            more than once, of which the last would count.
    """
    query = request.query_params
    values = {name: query.getlist(name) for name in kind.model_fields if name in query}
    faults = [
        {"type": parameters.REPEATED, "loc": ("query", name), "input": came}
        for name, came in values.items()
        if len(came) > 1
    ]
    if faults:
        raise RequestValidationError(faults)
    try:
        return kind.model_validate(dict(query))
    except ValidationError as error:
        raise _refusal("query", error) from error


def timeout_s(request: Request) -> float | None:
    """Return how long the client waits, if it says so.

    Raises:
        RequestValidationError: It is no number above zero.
    """
    given = request.headers.get(inference.TIMEOUT)
    if given is None:
        return None
    try:
        return _SECONDS.validate_python(given)
    except ValidationError as error:
        raise _refusal("header", error, inference.TIMEOUT) from error


def described(kind: type[Parameters]) -> list[dict[str, Any]]:
    """Describe parameters for the OpenAPI document."""
    queried = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": schema,
        }
        for name, schema in kind.model_json_schema()["properties"].items()
    ]
    return [*queried, dict(_TIMEOUT)]


def _refusal(where: str, error: ValidationError, *name: str) -> RequestValidationError:
    return RequestValidationError(
        [{**fault, "loc": (where, *name, *fault["loc"])} for fault in error.errors()]
    )
