"""One request to a network: what all three routes for pictures do alike."""

from __future__ import annotations

from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response

from service.gateway import Answer, Gateway, Source
from service.ledger import Ledger
from service.rest import inference
from service.rest.body import Body
from service.settings import Settings
from service.tasks.task import Task

OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")


class Asking:
    """Sends the picture of one request to a network, and says where the time went.

    Args:
        request: Whose body is the picture.
        response: Gets the header with the time of each stage.
        timeout_s: How long the client waits, from the moment that its request came.
    """

    def __init__(
        self,
        request: Request,
        response: Response,
        timeout_s: Annotated[float | None, Header(alias=inference.TIMEOUT, gt=0)] = None,
    ) -> None:
        self._request = request
        self._response = response
        self._timeout_s = timeout_s

    async def answer(
        self, task: Task[OptionsT, ResultT], model: str | None, options: OptionsT
    ) -> Answer[ResultT]:
        """Return the gateway's answer; the work ends when the client goes away.

        Raises:
            GatewayError: There is no answer; its code says why.
            GoneError: The client went away.
        """
        gateway: Gateway = self._request.app.state.gateway
        settings: Settings = self._request.app.state.settings
        body = Body(self._request, settings.max_body_bytes)
        source = Source(body.picture, body.most_bytes)
        work = gateway.answer(task, model, source, options, self._ledger())
        found = await body.until_disconnect(work)
        self._response.headers[inference.HEADER] = inference.server_timing(found.timings_ms)
        return found

    def _ledger(self) -> Ledger:
        ledger = inference.ledger(self._request) or Ledger()
        if self._timeout_s is not None:
            ledger.limit(self._timeout_s - ledger.total_s())
        return ledger

    def raw(self, content: bytes, kind: str) -> Response:
        """Return an answer that is no JSON, with the same headers."""
        return Response(content, headers=dict(self._response.headers), media_type=kind)


AskingDep = Annotated[Asking, Depends()]
