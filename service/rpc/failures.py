"""Errors as gRPC statuses with google.rpc details. The one table from codes to statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from service.errors import Code, GatewayError, WrongTaskError
from service.ledger import server_timing

STATUS: Final = {
    Code.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNSUPPORTED_MEDIA: grpc.StatusCode.INVALID_ARGUMENT,
    # As gRPC itself says of a message that is larger yet, which never comes this far.
    Code.TOO_MANY_BYTES: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_MANY_PIXELS: grpc.StatusCode.INVALID_ARGUMENT,
    Code.BAD_IMAGE: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Code.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Code.WRONG_TASK: grpc.StatusCode.INVALID_ARGUMENT,
    Code.MODEL_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.EXECUTOR_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Of REST alone, which fetches.
    Code.FETCH_FAILED: grpc.StatusCode.INVALID_ARGUMENT,
    Code.READ_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}
DOMAIN: Final = "gpusq"
# Where gRPC libraries look for a google.rpc.Status.
DETAILS: Final = "grpc-status-details-bin"
# What a client that retries by its own policy obeys; below zero it does not try again.
_PUSHBACK: Final = "grpc-retry-pushback-ms"
# A client takes 8 KB of metadata in all, and this comes twice, percent-encoded and in base64.
_MOST_BYTES: Final = 1000
Metadata = tuple[tuple[str, str], ...]


def said(error: GatewayError) -> str:
    """Return the sentence for people, with what to call instead where that helps."""
    if isinstance(error, WrongTaskError):
        return _cut(f"{error.detail} Call {error.task.capitalize()}, or name one of those.")
    return _cut(error.detail)


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MOST_BYTES:
        return text
    return f"{encoded[:_MOST_BYTES].decode(errors='ignore')}…"


def metadata(error: GatewayError, timings_ms: Mapping[str, float] | None) -> Metadata:
    """Return what goes with the status of an error, beside the details, in plain text.

    For people, and for clients that lack the messages of google.rpc.

    Args:
        error: Why there is no answer.
        timings_ms: Where the time went; None where no network was asked.
    """
    plain = [("x-error-code", error.code.value)]
    if error.retry_after_s is None:
        plain.append((_PUSHBACK, "-1"))
    else:
        plain.append(("retry-after", str(error.retry_after_s)))
        plain.append((_PUSHBACK, str(1000 * error.retry_after_s)))
    if timings_ms is not None:
        plain.append(("server-timing", server_timing(timings_ms)))
    return tuple(plain)


def details(error: GatewayError, request_id: str) -> bytes:
    """Return an error as a google.rpc.Status, for libraries."""
    parts: list[Any] = [
        error_details_pb2.ErrorInfo(reason=error.code.value.upper(), domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration(seconds=error.retry_after_s)
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=STATUS[error.code].value[0], message=said(error))
    for part in parts:
        packed = any_pb2.Any()
        packed.Pack(part)
        status.details.append(packed)
    serialized: bytes = status.SerializeToString()
    return serialized
