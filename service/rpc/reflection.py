"""grpc.reflection: what lets grpcurl and the like ask without a .proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha.reflection import aio


class Reflection(aio.ReflectionServicer):  # type: ignore[misc] # has no types
    """Describes the services.

    Args:
        names: Of the services.
        leaving: Set when the server stops.
    """

    def __init__(self, names: Iterable[str], leaving: asyncio.Event) -> None:
        super().__init__(names)
        self._leaving = leaving

    async def ServerReflectionInfo(  # noqa: N802 # gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[Any]:
        """Answer until the client has no more questions, or the server stops."""
        questions = _until(self._leaving, request_iterator)
        async for answer in super().ServerReflectionInfo(questions, context):
            yield answer


async def _until(leaving: asyncio.Event, messages: Any) -> AsyncIterator[Any]:
    """Give what comes. A stream that a client leaves open shall not hold up a stop."""
    left = asyncio.ensure_future(leaving.wait())
    following = asyncio.ensure_future(anext(messages, None))
    try:
        while True:
            await asyncio.wait((following, left), return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (message := following.result()) is None:
                return
            yield message
            following = asyncio.ensure_future(anext(messages, None))
    finally:
        left.cancel()
        following.cancel()
