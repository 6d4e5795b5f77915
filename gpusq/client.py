"""The client that waits for each answer."""

from __future__ import annotations

import contextlib
import time
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


class Client:
    """Asks a running service. Threads may share one; it keeps its connections until it is closed.

    Args:
        base_url: Where the service is.
        api_key: Sent with every request, where the service wants one.
        timeout_s: What a call may take in all. The service is told what is left of it.
        retries: How often a call is tried again at most, where that may help.

    Raises:
        ArgumentError: One of these is not as expected.

    Every method that asks raises a :class:`gpusq.GpusqError` where there is no answer.
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
        self._http = httpx.Client(**connection.options(self._url, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()

    def classify(
        self, picture: Picture, *, model: str | None = None, top_k: int | None = None
    ) -> ClassifyAnswer:
        """Ask what a picture shows.

        Args:
            picture: A path, bytes, a file opened in binary mode, or a Pillow image.
            model: A name; the default model without it.
            top_k: How many classes to name; as the service has it without it.
        """
        return self._ask(calls.classify(pictures.encoded(picture), model, top_k))

    def detect(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        min_score: float | None = None,
        max_detections: int | None = None,
        masks: Masks | None = None,
    ) -> DetectAnswer:
        """Ask what a picture holds, and where.

        Args:
            picture: A path, bytes, a file opened in binary mode, or a Pillow image.
            model: A name; the default model without it.
            min_score: The least score that is answered.
            max_detections: How many are answered at most.
            masks: Whether each comes with its mask, and in which form.
        """
        data = pictures.encoded(picture)
        return self._ask(calls.detect(data, model, min_score, max_detections, masks))

    def segment(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        format: Format | None = None,  # noqa: A002 # the API's word
    ) -> SegmentAnswer:
        """Ask what each pixel of a picture shows.

        Args:
            picture: A path, bytes, a file opened in binary mode, or a Pillow image.
            model: A name; the default model without it.
            format: How the map comes; as `class_map`, a PNG, without it.
        """
        return self._ask(calls.segment(pictures.encoded(picture), model, format))

    def models(self) -> Models:
        """Ask which models there are."""
        return self._ask(calls.models())

    def ready(self) -> Readiness:
        """Ask whether pictures can be sent."""
        return self._ask(calls.ready())

    def _ask(self, call: Call[T]) -> T:
        steps = exchange(call, self._policy)
        said: Outcome = None
        while not isinstance(step := steps.send(said), Done):
            if isinstance(step, Send):
                said = self._send(call, step)
            else:
                time.sleep(step.seconds)
                said = None
        return step.answer

    def _send(self, call: Call[Any], step: Send) -> Reply | Lost:
        ends = time.monotonic() + step.timeout_s
        request = connection.request(self._http, call, step)
        timeouts: dict[str, float] = request.extensions["timeout"]

        def only_what_is_left(_event: str, _about: dict[str, Any]) -> None:
            # httpx counts connecting, sending and receiving apart; each looks here as it begins.
            timeouts.update(dict.fromkeys(timeouts, max(ends - time.monotonic(), 0.001)))

        request.extensions["trace"] = only_what_is_left
        body = bytearray()
        try:
            response = self._http.send(request, stream=True)
            with contextlib.closing(response):
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > ends:
                        return Lost("", in_time=False)
            return connection.reply(response, bytes(body))
        except httpx.HTTPError as error:
            return connection.lost(error, self._url)
