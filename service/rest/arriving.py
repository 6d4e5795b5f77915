"""The body of a request as it arrives: within a limit, and no longer than its client waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import Code, GatewayError, GoneError
from service.waiting import Interrupt

T = TypeVar("T")


class Arriving:
    """The body of one request, read once.

    Args:
        request: The request.
        max_bytes: Most bytes accepted.
        mend: What to do about a body that has more.
        max_written: Most bytes of the body, where it writes what it brings longer.
    """

    def __init__(
        self, request: Request, max_bytes: int, mend: str, max_written: int | None = None
    ) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._max_written = max_written or max_bytes
        self._mend = mend
        self._read = asyncio.Event()

    @property
    def most_bytes(self) -> int:
        """How many bytes it has at most: those that are declared, or as many as are accepted."""
        declared = self._request.headers.get("content-length", "")
        return min(int(declared), self._max_bytes) if declared.isdecimal() else self._max_bytes

    async def whole(self) -> bytes:
        """Return all of it.

        Raises:
            GatewayError: It has too many bytes.
            GoneError: The client went away.
        """
        declared = self._request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_written:
            raise self.too_many(f"{int(declared):,}")
        chunks = bytearray()
        try:
            async for chunk in self._request.stream():
                chunks += chunk
                if len(chunks) > self._max_written:
                    raise self.too_many("more")
        except ClientDisconnect as error:
            raise GoneError from error
        self._read.set()
        return bytes(chunks)

    async def until_disconnect(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, but cancel it when the client goes away.

        Raises:
            GoneError: The client went away.
        """
        gone = Interrupt()
        leaving = asyncio.ensure_future(self._disconnect(gone))
        try:
            return await work
        except asyncio.CancelledError:
            if gone.caused():
                raise GoneError from None
            raise
        finally:
            leaving.cancel()

    def too_many(self, came: str) -> GatewayError:
        """Return the error of a body that has too many bytes."""
        return GatewayError(
            Code.TOO_MANY_BYTES,
            f"A body may have {self._max_bytes:,} bytes, this one has {came}. {self._mend}",
        )

    async def _disconnect(self, gone: Interrupt) -> None:
        # Until the body is read, its reader is who hears of a disconnect.
        await self._read.wait()
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        gone.come()
