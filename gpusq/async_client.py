"""The client whose methods are awaited. All but the sending is that of the other."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from gpusq import calls, connection, pictures
from gpusq.answers import ClassifyAnswer, DetectAnswer, Models, Readiness, SegmentAnswer
from gpusq.calls import Call, Format, Masks, Reply
from gpusq.connection import DEFAULT_URL
from gpusq.exchange import Done, Lost, Outcome, Send, exchange
from gpusq.pictures import Picture

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class AsyncClient:
    """Asks a running service from an event loop of asyncio.

    Tasks of one loop may share one; it keeps its connections until it is closed. Arguments,
    methods and errors are those of :class:`gpusq.Client`.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 2,
    ) -> None:
        self._policy = connection.policy(timeout_s, retries)
        self._url = connection.address(base_url)
        self._http = httpx.AsyncClient(**connection.options(self._url, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give up the connections."""
        await self._http.aclose()

    async def classify(
        self, picture: Picture, *, model: str | None = None, top_k: int | None = None
    ) -> ClassifyAnswer:
        """Ask what a picture shows; see :meth:`gpusq.Client.classify`."""
        return await self._ask(calls.classify(await _encoded(picture), model, top_k))

    async def detect(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        min_score: float | None = None,
        max_detections: int | None = None,
        masks: Masks | None = None,
    ) -> DetectAnswer:
        """Ask what a picture holds, and where; see :meth:`gpusq.Client.detect`."""
        data = await _encoded(picture)
        return await self._ask(calls.detect(data, model, min_score, max_detections, masks))

    async def segment(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        format: Format | None = None,  # noqa: A002 # the API's word
    ) -> SegmentAnswer:
        """Ask what each pixel of a picture shows; see :meth:`gpusq.Client.segment`."""
        return await self._ask(calls.segment(await _encoded(picture), model, format))

    async def models(self) -> Models:
        """Ask which models there are."""
        return await self._ask(calls.models())

    async def ready(self) -> Readiness:
        """Ask whether pictures can be sent."""
        return await self._ask(calls.ready())

    async def _ask(self, call: Call[T]) -> T:
        steps = exchange(call, self._policy)
        said: Outcome = None
        while not isinstance(step := steps.send(said), Done):
            if isinstance(step, Send):
                said = await self._send(call, step)
            else:
                await asyncio.sleep(step.seconds)
                said = None
        return step.answer

    async def _send(self, call: Call[Any], step: Send) -> Reply | Lost:
        request = connection.request(self._http, call, step)
        try:
            # httpx counts connecting, sending and receiving apart.
            response = await asyncio.wait_for(self._http.send(request), step.timeout_s)
            return connection.reply(response, response.content)
        except asyncio.TimeoutError:
            return Lost("", in_time=False)
        except httpx.HTTPError as error:
            return connection.lost(error, self._url)


async def _encoded(picture: Picture) -> bytes:
    # Reading a disk and writing PNG would hold up everything else.
    return await asyncio.to_thread(pictures.encoded, picture)
