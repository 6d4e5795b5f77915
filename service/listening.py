"""The addresses of the service, taken before the models are loaded, which takes seconds."""

from __future__ import annotations

import socket
from typing import Any

from service.errors import StartError
from service.settings import Settings


def http(settings: Settings) -> socket.socket:
    """Return a socket at the address of HTTP, bound and not listening.

    Raises:
        StartError: The address cannot be had.
    """
    return _bound(settings.host, settings.port, "Choose another --host or --port.")


def grpc(settings: Settings) -> socket.socket:
    """Return a socket at the address of gRPC, bound and not listening.

    Raises:
        StartError: The address cannot be had.
    """
    if settings.grpc_port and settings.grpc_port == settings.port:
        raise StartError(
            f"HTTP and gRPC cannot both listen at port {settings.port}. Choose another "
            "GPUSQ_GRPC_PORT, or GPUSQ_GRPC=false to do without."
        )
    mend = "Choose another GPUSQ_GRPC_PORT, or GPUSQ_GRPC=false to do without."
    return _bound(settings.host, settings.grpc_port, mend)


def _bound(host: str, port: int, mend: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _bind(socket.socket(family, kind, protocol), address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"cannot listen at {host}:{port}: {reason}. {mend}") from error


def _bind(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
