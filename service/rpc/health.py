"""grpc.health.v1: whether pictures can be sent, which follows the gateway's models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Container
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.gateway import Gateway

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# How late whoever watches hears of a change.
_EVERY_S: Final = 0.2


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # has no types
    """Says of the whole and of each service what `/readyz` says.

    Args:
        gateway: Whose default model it speaks of.
        known: Names of the services; the empty one is the whole.
        leaving: Set when the server stops.
    """

    def __init__(self, gateway: Gateway, known: Container[str], leaving: asyncio.Event) -> None:
        self._gateway = gateway
        self._known = known
        self._leaving = leaving

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 # gRPC's name
        """Say how one service is now."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"No service {request.service!r}.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 # gRPC's name
        self, request: Any, _context: Any
    ) -> AsyncIterator[Any]:
        """Say how one service is now, and again whenever that changes, until the server stops."""
        said = None
        while True:
            status = self._status(request.service)
            if status != said:
                yield health_pb2.HealthCheckResponse(status=status)
                said = status
            if self._leaving.is_set():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _EVERY_S)

    def _status(self, service: str) -> int:
        if service and service not in self._known:
            return int(_UNKNOWN)
        ready = self._gateway.ready and not self._leaving.is_set()
        return int(_SERVING if ready else _NOT_SERVING)
