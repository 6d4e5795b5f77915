"""The gateway's own gRPC service as a client for the loads, where this gateway has it."""

from __future__ import annotations

from benchmarks import processes
from benchmarks.load import Client
from service.settings import Settings


def free_port() -> int | None:
    """Return a port for it; None where the gateway has no gRPC."""
    return processes.free_port() if "grpc_port" in Settings.model_fields else None


def settings(port: int | None) -> dict[str, object]:
    """Return the gateway's settings that make it listen there."""
    return {} if port is None else {"grpc_port": port}


def client(port: int, photos: list[bytes]) -> Client:
    """Return a client that asks what each picture shows."""
    raise NotImplementedError
