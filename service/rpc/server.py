"""The gRPC server: its address, its services, its start and its stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from service.errors import StartError
from service.gateway import Gateway
from service.observe.observer import Observer
from service.rpc import credentials
from service.rpc.edge import Edge, Guard
from service.rpc.health import Health
from service.rpc.reflection import Reflection
from service.security.tls import Certificates
from service.settings import Settings

_HEALTH: Final = "grpc.health.v1.Health"
_REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"
# What a message has beside a picture, so that one a little too large gets a sentence of ours.
_SLACK_BYTES: Final = 1 << 20
# Calls beyond those that ask a network: health, models, and those just being refused.
_OTHER_CALLS: Final = 128


class Service(Protocol):
    """What the server can serve."""

    @property
    def name(self) -> str:
        """Its full name, "gpusq.v1.Vision"."""

    @property
    def asks(self) -> Mapping[str, str]:
        """The methods that ask a network, each with the task ("" for none in particular).

        As many of them run at once as the gateway answers.
        """

    def install(self, server: grpc.aio.Server) -> None:
        """Add its handlers to a server. They raise GatewayError where there is no answer."""


class Server:
    """Serves a gateway over gRPC.

    Args:
        gateway: What answers.
        settings: Limits.
        listener: Holds the address, bound and not listening; gRPC takes it over at the start.
        observer: Sees every call.
        certificates: What it shows; None without TLS.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        listener: socket.socket,
        observer: Observer,
        certificates: Certificates | None = None,
    ) -> None:
        self._certificates = certificates
        self._gateway = gateway
        self._settings = settings
        self._listener = listener
        self._observer = observer
        host, self.port = listener.getsockname()[:2]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._services: list[Service] = []
        self._guards: list[Guard] = []
        self._leaving = asyncio.Event()
        self._server: Any = None
        self._stopping: asyncio.Future[None] | None = None

    def add(self, service: Service) -> None:
        """Serve something more; before the start."""
        self._services.append(service)

    def guard(self, check: Guard) -> None:
        """Ask something more of every call before its message is read; before the start."""
        self._guards.append(check)

    async def bind(self) -> None:
        """Take the address over, and answer nothing yet.

        Raises:
            StartError: Somebody else has taken it since.
        """
        asks = {f"/{s.name}/{m}": task for s in self._services for m, task in s.asks.items()}
        edge = Edge(self._gateway, self._settings, asks, self._guards, self._observer)
        self._server = grpc.aio.server(
            interceptors=(edge,),
            maximum_concurrent_rpcs=self._gateway.capacity + _OTHER_CALLS,
            options=(
                ("grpc.max_receive_message_length", self._most_bytes() + _SLACK_BYTES),
                # A second service at the same address shall fail, not share.
                ("grpc.so_reuseport", 0),
            ),
        )
        for service in self._services:
            service.install(self._server)
        names = [service.name for service in self._services]
        health_pb2_grpc.add_HealthServicer_to_server(
            Health(self._gateway, names, self._leaving), self._server
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection([*names, _HEALTH, _REFLECTION], self._leaving), self._server
        )
        try:
            if self._certificates is None:
                self._server.add_insecure_port(self.address)
            else:
                shown = credentials.of(self._certificates)
                self._server.add_secure_port(self.address, shown)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen at {self.address} for gRPC: somebody else has taken it. Choose "
                "another GPUSQ_GRPC_PORT."
            ) from error
        finally:
            self._listener.close()

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            StartError: The address cannot be had.
        """
        if self._server is None:
            await self.bind()
        await self._server.start()

    def _most_bytes(self) -> int:
        return max(self._settings.max_body_bytes, self._settings.max_tensor_bytes)

    async def stop(self) -> None:
        """Say that it is not ready, take no more calls, answer those that came, and end."""
        if self._stopping is None:
            self._leaving.set()
            grace_s = self._settings.drain_timeout_s
            self._stopping = asyncio.ensure_future(self._server.stop(grace_s))
        await asyncio.shield(self._stopping)

    async def abort(self) -> None:
        """End every call at once, of a stop that took too long."""
        await self._server.stop(None)
