"""What each method asks of the service, and how its answer is read. Nothing here sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Generic, Literal, TypeVar

from gpusq import pictures, reading
from gpusq.answers import (
    ClassifyAnswer,
    DetectAnswer,
    Models,
    PictureAnswer,
    Readiness,
    SegmentAnswer,
)
from gpusq.errors import AnswerError, Problem
from gpusq.retry_after import seconds

T = TypeVar("T")
PictureT = TypeVar("PictureT", bound=PictureAnswer)

Masks = Literal["none", "rle", "polygons"]
Format = Literal["png", "rle", "polygons"]
_REQUEST_ID: Final = "x-request-id"
_MOST_SHOWN: Final = 200


@dataclass(frozen=True)
class Reply:
    """What came back.

    Args:
        status: HTTP's number.
        headers: By name in lower case.
        body: All of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def _is_ok(reply: Reply) -> bool:
    return reply.status == HTTPStatus.OK


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request.

    Args:
        method: HTTP's.
        path: Below the service's address.
        read: Makes the answer of a reply that is one.
        query: Without what is None.
        headers: Beside those that every request has.
        body: The bytes of the picture.
        is_answer: Says whether a reply is one, or else a refusal.
    """

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[Reply], T]
    query: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    is_answer: Callable[[Reply], bool] = _is_ok


def classify(data: bytes, model: str | None, top_k: int | None) -> Call[ClassifyAnswer]:
    """Ask what a picture shows."""
    return _about_picture("classify", ClassifyAnswer, data, model=model, top_k=top_k)


def detect(
    data: bytes,
    model: str | None,
    min_score: float | None,
    max_detections: int | None,
    masks: Masks | None,
) -> Call[DetectAnswer]:
    """Ask what a picture holds."""
    query = {"min_score": min_score, "max_detections": max_detections, "masks": masks}
    return _about_picture("detect", DetectAnswer, data, model=model, **query)


def segment(data: bytes, model: str | None, form: Format | None) -> Call[SegmentAnswer]:
    """Ask what each pixel of a picture shows."""
    return _about_picture("segment", SegmentAnswer, data, model=model, format=form)


def models() -> Call[Models]:
    """Ask which models there are."""
    return Call("GET", "/v1/models", lambda reply: reading.read(Models, _json(reply)))


def ready() -> Call[Readiness]:
    """Ask whether pictures can be sent; that they cannot is an answer too."""
    return Call(
        "GET",
        "/readyz",
        lambda reply: reading.read(Readiness, _json(reply)),
        is_answer=_says_whether_ready,
    )


def _says_whether_ready(reply: Reply) -> bool:
    # A proxy that does not reach the service answers 503 too, with a page of its own.
    is_json = reply.headers.get("content-type", "").startswith("application/json")
    return _is_ok(reply) or (reply.status == HTTPStatus.SERVICE_UNAVAILABLE and is_json)


def _about_picture(
    task: str, kind: type[PictureT], data: bytes, **query: str | float | None
) -> Call[PictureT]:
    def read(reply: Reply) -> PictureT:
        request_id = reply.headers.get(_REQUEST_ID, "")
        return reading.read(kind, {**_json(reply), "request_id": request_id})

    return Call(
        "POST",
        f"/v1/{task}",
        read,
        query={name: value for name, value in query.items() if value is not None},
        headers={"Content-Type": pictures.media_type(data), "Accept": "application/json"},
        body=data,
    )


def problem(reply: Reply) -> tuple[Problem, bool]:
    """Return why there is no answer, and whether it was the service that said so.

    Something else, such as a proxy, may have answered in its place.
    """
    try:
        said = json.loads(reply.body)
        ours = isinstance(said["code"], str) and isinstance(said["detail"], str)
    except (ValueError, TypeError, KeyError, RecursionError):
        ours = False
    code, detail = (said["code"], said["detail"]) if ours else _foreign(reply)
    timings = said.get("timings_ms") if ours else None
    found = Problem(
        status=reply.status,
        code=code,
        detail=detail,
        retry_after_s=seconds(reply.headers),
        request_id=reply.headers.get(_REQUEST_ID),
        timings_ms=_timings(timings),
    )
    return found, ours


def _timings(said: object) -> dict[str, float]:
    if not isinstance(said, dict):
        return {}
    try:
        return {k: float(v) for k, v in said.items() if isinstance(v, int | float)}
    except OverflowError:
        return {}


def _foreign(reply: Reply) -> tuple[str, str]:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown Status"
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    where = f", which points to {to}" if (to := reply.headers.get("location")) else ""
    return code, (
        f"Something that is not the service answered {reply.status} {phrase}{where}. "
        "Look at the address, and at what stands before the service."
    )


def _json(reply: Reply) -> dict[str, Any]:
    try:
        said = json.loads(reply.body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        shown = reply.body[:_MOST_SHOWN].decode("utf-8", "replace")
        raise AnswerError(
            f"Expected JSON as the service has it, got {shown!r}. "
            "Look whether the address is that of the service."
        )
    return said
