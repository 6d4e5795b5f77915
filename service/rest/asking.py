"""One request to a network: what all three routes for pictures do alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from service.answer import Answer, Source
from service.gateway import Gateway
from service.ledger import Ledger, server_timing
from service.parameters import Parameters
from service.rest import inference, problems, query
from service.rest.answers import Answers, Entry
from service.rest.body import Body
from service.settings import Settings
from service.tasks.task import Task

OptionsT = TypeVar("OptionsT")
ParametersT = TypeVar("ParametersT", bound=Parameters)
ResultT = TypeVar("ResultT")
AnswerT = TypeVar("AnswerT", bound=BaseModel)


class Asking(Generic[ParametersT]):
    """Sends the pictures of one request to a network, and says where the time went.

    Args:
        request: Whose body brings the pictures.
        kind: What its query may choose.

    Raises:
        RequestValidationError: The query, or how long the client waits, is not as expected.
    """

    def __init__(self, request: Request, kind: type[ParametersT]) -> None:
        self.chosen = query.chosen(request, kind)
        self.settings: Settings = request.app.state.settings
        self._request = request
        self._headers: dict[str, str] = {}
        self._gateway: Gateway = request.app.state.gateway
        self._body = Body(request, self.settings.max_body_bytes, request.app.state.fetcher)
        self._ledger = inference.ledger(request) or Ledger()
        if (timeout_s := query.timeout_s(request)) is not None:
            self._ledger.limit(timeout_s - self._ledger.total_s())

    async def answer(
        self,
        task: Task[OptionsT, ResultT],
        options: OptionsT,
        say: Callable[[Answer[ResultT]], AnswerT],
    ) -> AnswerT | Answers[AnswerT]:
        """Return the gateway's answer; the work ends when the client goes away.

        Args:
            task: What to do.
            options: What the request chose.
            say: Says one answer in JSON's words.

        Raises:
            GatewayError: There is no answer; its code says why.
            GoneError: The client went away.
        """
        body, model = self._body, self.chosen.model
        if body.is_raw:
            raw = Source(body.picture, body.most_bytes)
            work = self._gateway.answer(task, model, raw, options, self._ledger)
            return say(self._timed(await body.until_disconnect(work)))
        source = Source(body.pictures, body.most_bytes)
        several = self._gateway.answer_several(task, model, source, options, self._ledger)
        found = await body.until_disconnect(several)
        if body.brought is not None and body.brought.several:
            self._show(self._ledger.timings_ms())
            names = [picture.name for picture in body.brought.pictures]
            return Answers(
                answers=[self._entry(*pair, say) for pair in zip(names, found, strict=True)]
            )
        [one] = found
        if isinstance(one, Answer):
            return say(self._timed(one))
        raise one

    def respond(self, found: BaseModel) -> Response:
        """Return an answer as JSON."""
        # Written from the answer as it is: FastAPI would check it once more.
        return self.raw(found.model_dump_json(exclude_none=True).encode(), "application/json")

    def raw(self, content: bytes, kind: str) -> Response:
        """Return an answer of any kind, with the same headers."""
        return Response(content, headers=self._headers, media_type=kind)

    def _entry(
        self,
        name: str | None,
        found: Answer[ResultT] | Any,
        say: Callable[[Answer[ResultT]], AnswerT],
    ) -> Entry[AnswerT]:
        if isinstance(found, Answer):
            return Entry(name=name, answer=say(found))
        return Entry(name=name, problem=problems.describe(self._request, found))

    def _timed(self, found: Answer[ResultT]) -> Answer[ResultT]:
        self._show(found.timings_ms)
        return found

    def _show(self, timings_ms: dict[str, float]) -> None:
        self._headers[inference.HEADER] = server_timing(timings_ms)
