"""What FastAPI cannot infer of the OpenAPI document: raw bodies and problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.errors import Code
from service.rest import oip_schema
from service.rest.brought import MOST_PICTURES
from service.rest.guard import scope_of
from service.rest.inference import HEADER
from service.rest.oip_errors import PREFIX
from service.rest.problem import Problem
from service.rest.problems import MEDIA_TYPE, STATUS, TITLES

# What asking for keys adds to a route.
_REFUSING: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}
_SERVER_TIMING: Final = {
    HEADER: {
        "description": "The numbers of `timings_ms`, for browsers' developer tools.",
        "schema": {"type": "string"},
    }
}


def _only(key: str) -> dict[str, Any]:
    text = {"type": "string", "format": "byte"}
    several = {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_PICTURES}
    return {
        "type": "object",
        "required": [key],
        "properties": {key: several if key.endswith("s") else text},
        "additionalProperties": False,
    }


PICTURE_BODY: Final = {
    "required": True,
    "description": "The picture itself, a form, or JSON with base64. Several pictures get a list.",
    "content": {
        "image/jpeg": _BYTES,
        "image/png": _BYTES,
        "image/webp": _BYTES,
        "application/octet-stream": _BYTES,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "images": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "maxItems": MOST_PICTURES,
                        "description": "Several pictures, instead of `image`; answered by a list.",
                    },
                },
            }
        },
        "application/json": {"schema": {"oneOf": [_only("image"), _only("images")]}},
    },
}


def _problem(status: HTTPStatus) -> dict[str, Any]:
    """Describe one status by every code that comes with it."""
    codes = [code for code in Code if STATUS[code] is status]
    examples = {
        code.value: {
            "summary": TITLES[code],
            "value": Problem(
                type=f"urn:gpusq:problem:{code.value}",
                title=TITLES[code],
                status=status,
                detail="What was expected, what came, what to do.",
                instance="urn:uuid:0d1f1c2e-5a0b-4a8e-9a55-0f8b7f1f6f0a",
                code=code.value,
                timings_ms={"read": 0.11, "decode": 1.58, "total": 1.8},
            ).model_dump(exclude_none=True),
        }
        for code in codes
    }
    described: dict[str, Any] = {
        "description": "; ".join(f"`{code.value}`: {TITLES[code].lower()}" for code in codes),
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
        },
        "headers": dict(_SERVER_TIMING),
    }
    if status is HTTPStatus.UNAUTHORIZED:
        described["headers"]["WWW-Authenticate"] = {
            "description": "`Bearer`.",
            "schema": {"type": "string"},
        }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GATEWAY_TIMEOUT):
        described["headers"]["Retry-After"] = {
            "description": "Seconds to wait.",
            "schema": {"type": "integer"},
        }
    return described


def responses(description: str, **more: Any) -> dict[int | str, dict[str, Any]]:
    """Describe what a route that asks a network answers.

    Args:
        description: Of the answer.
        more: Other content than JSON, by media type.
    """
    success = {"description": description, "headers": dict(_SERVER_TIMING), **more}
    statuses = sorted(set(STATUS.values()) - {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
    return {200: success, **{int(status): _problem(status) for status in statuses}}


PNG_CONTENT: Final = {"image/png": _BYTES}


def install(app: FastAPI) -> None:
    """Add the problem schema to the application's OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
                license_info=app.license_info,
            )
            schemas = document["components"]["schemas"]
            schemas.update(Problem=Problem.model_json_schema(), **oip_schema.schemas())
            if app.state.access.gatekeeper is not None:
                _say_keys(document, metrics_need_key=app.state.settings.metrics_need_key)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way


def _say_keys(document: dict[str, Any], *, metrics_need_key: bool) -> None:
    """Add to each route that needs a key how to send it, and what comes back without a good one."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
        "header": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "The same key, where Authorization is taken by a proxy.",
        },
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = scope_of(method.upper(), path, metrics_need_key=metrics_need_key)
            if needed is not None:
                operation["security"] = [{"bearer": []}, {"header": []}]
                refusal = oip_schema.refusal if path.startswith(PREFIX) else _problem
                for status in _REFUSING:
                    operation["responses"].setdefault(str(int(status)), refusal(status))
