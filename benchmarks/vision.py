"""The gateway's own gRPC service for the loads: requests that are serialised beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc

from benchmarks.load import LOST, PATIENCE_S, REFUSED
from service.rpc.gpusq.v1 import vision_pb2

_METHOD: Final = "/gpusq.v1.Vision/Classify"
_WITHOUT_LIMIT: Final = (("grpc.max_receive_message_length", -1),)


class VisionClient:
    """Asks what each picture shows, over one connection.

    Args:
        port: On the loopback.
        photos: Asked for by number, round and round.
    """

    def __init__(self, port: int, photos: Sequence[bytes]) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_WITHOUT_LIMIT)
        self._call: Any = self._channel.unary_unary(_METHOD)
        self._requests = [
            vision_pb2.ClassifyRequest(image=photo).SerializeToString() for photo in photos
        ]

    async def ask(self, number: int) -> tuple[str, bool]:
        """Send one request; return the outcome, and whether it says when to try again."""
        try:
            await self._call(self._requests[number % len(self._requests)], timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            said = dict(error.trailing_metadata() or ())
            if code := said.get("x-error-code"):
                return str(code), "retry-after" in said
            # What no handler has answered.
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                refused = "failed to connect" in (error.details() or "").lower()
                return REFUSED if refused else LOST, False
            return f"{error.code().name}: {error.details()}", False
        return "ok", False

    async def close(self) -> None:
        """End its connection."""
        await self._channel.close()
