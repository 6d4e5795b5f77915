"""Read the bytes of one picture from a request, raw or multipart, within a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import Code, GatewayError, GoneError
from service.rest import form

T = TypeVar("T")

_ACCEPTED: Final = (
    "Send the picture itself with Content-Type image/jpeg, image/png, image/webp or "
    "application/octet-stream, or a form as multipart/form-data with the file in the field "
    "'image'."
)


class Body:
    """The body of one request, read once.

    Args:
        request: The request.
        max_bytes: Largest body accepted.
    """

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._read = asyncio.Event()

    @property
    def most_bytes(self) -> int:
        """How many bytes it has at most: those that are declared, or as many as are accepted."""
        declared = self._request.headers.get("content-length", "")
        return min(int(declared), self._max_bytes) if declared.isdecimal() else self._max_bytes

    async def picture(self) -> bytes:
        """Return the bytes of the picture.

        Raises:
            GatewayError: Another content type, too many bytes, or a form without one picture.
        """
        kind = self._content_type()
        self._check_declared_length()
        data = await self._bounded()
        self._read.set()
        if kind != "multipart/form-data":
            return data
        try:
            return form.picture(data, self._request.headers["content-type"])
        except form.FormError as error:
            raise GatewayError(
                Code.BAD_REQUEST, f"The form cannot be read: {error}. {_ACCEPTED}"
            ) from error

    async def until_disconnect(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, but cancel it when the client goes away.

        Raises:
            GoneError: The client went away.
        """
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._disconnect())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise GoneError
        finally:
            leaving.cancel()
            working.cancel()
            # Its place must be free again before this request is over.
            await asyncio.wait((working,))

    def _content_type(self) -> str:
        header = self._request.headers.get("content-type", "")
        kind = header.partition(";")[0].strip().lower()
        if kind.startswith("image/") or kind in ("application/octet-stream", "multipart/form-data"):
            return kind
        came = f"got {kind!r}" if kind else "got no Content-Type"
        raise GatewayError(Code.UNSUPPORTED_MEDIA, f"Expected a picture, {came}. {_ACCEPTED}")

    def _check_declared_length(self) -> None:
        declared = self._request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_many(f"{int(declared):,}")

    async def _bounded(self) -> bytes:
        chunks = bytearray()
        try:
            async for chunk in self._request.stream():
                chunks += chunk
                if len(chunks) > self._max_bytes:
                    raise self._too_many("more")
        except ClientDisconnect as error:
            raise GoneError from error
        return bytes(chunks)

    def _too_many(self, came: str) -> GatewayError:
        return GatewayError(
            Code.TOO_MANY_BYTES,
            f"A body may have {self._max_bytes:,} bytes, this one has {came}. "
            "Send the picture smaller.",
        )

    async def _disconnect(self) -> None:
        # Until the body is read, its reader is who hears of a disconnect.
        await self._read.wait()
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
