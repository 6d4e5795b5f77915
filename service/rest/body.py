"""Read the pictures of a request, raw, in a form or in JSON, within a limit."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request

from service.errors import Code, GatewayError
from service.rest import brought, form
from service.rest.arriving import Arriving
from service.rest.brought import Brought, Picture
from service.rest.fetch import Fetcher

_ACCEPTED: Final = (
    "Send the picture itself with Content-Type image/jpeg, image/png, image/webp or "
    "application/octet-stream, a form as multipart/form-data with the file in the field "
    "'image', or application/json with the picture in base64 as 'image'."
)
_FORM: Final = "multipart/form-data"
_JSON: Final = "application/json"
# What a JSON object needs beside the pictures in it, with a line break here and there.
_AROUND_BYTES: Final = 4096
# Larger ones are taken apart beside the event loop.
_LARGE_BYTES: Final = 262_144


class Body(Arriving):
    """The body of one request, read once.

    Args:
        request: The request.
        max_bytes: Most bytes of pictures accepted.
        fetcher: Gets those that are named by URL.
    """

    def __init__(self, request: Request, max_bytes: int, fetcher: Fetcher) -> None:
        header = request.headers.get("content-type", "")
        self._kind = header.partition(";")[0].strip().lower()
        # In base64 three bytes become four.
        written = max_bytes * 4 // 3 + _AROUND_BYTES if self._kind == _JSON else None
        super().__init__(request, max_bytes, "Send the picture smaller.", written)
        self._fetcher = fetcher
        self.brought: Brought | None = None

    @property
    def is_raw(self) -> bool:
        """Whether the body is the picture itself, or at least nothing that holds pictures."""
        return self._kind not in (_FORM, _JSON)

    @property
    def most_bytes(self) -> int:
        """How many bytes it has at most: those that are declared, or as many as are accepted."""
        return self._max_bytes if self._kind == _JSON else super().most_bytes

    async def picture(self) -> bytes:
        """Return the body, which is the picture.

        Raises:
            GatewayError: Another content type, or too many bytes.
        """
        self._require_picture()
        return await self.whole()

    async def pictures(self) -> list[bytes | GatewayError]:
        """Return the pictures that the body holds; :attr:`brought` says more of them.

        Raises:
            GatewayError: Too many bytes, or a body without a picture.
        """
        self._require_plain()
        data = await self.whole()
        large = len(data) > _LARGE_BYTES
        found = await asyncio.to_thread(self._parse, data) if large else self._parse(data)
        self.brought = found
        return await self._fetched(found.pictures)

    def _require_plain(self) -> None:
        coding = self._request.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise GatewayError(
                Code.UNSUPPORTED_MEDIA,
                f"Expected the body as it is, got it with Content-Encoding {coding[:40]!r}. "
                "Pictures gain nothing by it: send it plain.",
            )

    def _require_picture(self) -> None:
        kind = self._kind
        self._require_plain()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            came = f"got {kind!r}" if kind else "got no Content-Type"
            raise GatewayError(Code.UNSUPPORTED_MEDIA, f"Expected a picture, {came}. {_ACCEPTED}")

    def _parse(self, data: bytes) -> Brought:
        if self._kind == _JSON:
            return brought.of_json(data)
        try:
            return form.pictures(data, self._request.headers["content-type"])
        except form.FormError as error:
            raise GatewayError(
                Code.BAD_REQUEST, f"The form cannot be read: {error}. {_ACCEPTED}"
            ) from error

    async def _fetched(self, pictures: list[Picture]) -> list[bytes | GatewayError]:
        """Return the bytes of each; those that a URL names come one after the other."""
        found: list[bytes | GatewayError] = []
        left = self._max_bytes
        for picture in pictures:
            data = picture.data
            if data is None:
                data = await self._from_url(picture.name or "", left)
            if isinstance(data, bytes) and (left := left - len(data)) < 0:
                raise self.too_many("more")
            found.append(data)
        return found

    async def _from_url(self, url: str, max_bytes: int) -> bytes | GatewayError:
        try:
            return await self._fetcher.get(url, max_bytes)
        except GatewayError as error:
            return error
