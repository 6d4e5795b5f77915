"""The query of a request, and what is wrong with one, in words for who sent it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from service.errors import Code, GatewayError
from service.rest import inference
from service.settings import MAX_TOP_K
from service.tasks import detect, segment

_MAX_SHOWN: Final = 40
_REPEATED: Final = "repeated"
_MOST_REPEATED: Final = 3
MOST_DETECTIONS: Final = 1000


class Query(BaseModel):
    """What may stand behind the question mark; anything else is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, description="A name from /v1/models; the default model of the task without it."
    )


class ClassifyQuery(Query):
    """What a classification may choose."""

    top_k: int | None = Field(
        None,
        ge=1,
        le=MAX_TOP_K,
        description="How many classes to name. A model with fewer classes names all of them.",
    )


class DetectQuery(Query):
    """What a detection may choose."""

    min_score: float = Field(
        detect.MIN_SCORE, ge=0, le=1, description="The least score that is answered."
    )
    max_detections: int = Field(
        detect.MAX_DETECTIONS,
        ge=1,
        le=MOST_DETECTIONS,
        description="How many are answered at most, of the highest scores.",
    )
    masks: detect.Masks = Field(
        "none",
        description="Whether each comes with its mask: `rle`, COCO's compressed run lengths, or "
        "`polygons`. For models with masks.",
    )


class SegmentQuery(Query):
    """What a segmentation may choose."""

    format: segment.Format = Field(
        "png",
        description="How the map comes: `png`, an 8-bit grey PNG whose values are "
        "class indices; or for each class `rle`, COCO's compressed run lengths, or `polygons`.",
    )


QUERIES: Final[Mapping[str, type[Query]]] = {
    "classify": ClassifyQuery,
    "detect": DetectQuery,
    "segment": SegmentQuery,
}
_EXPECTED: Final = {
    "model": "a name",
    "top_k": f"a whole number from 1 to {MAX_TOP_K}",
    "min_score": "a number from 0 to 1",
    "max_detections": f"a whole number from 1 to {MOST_DETECTIONS}",
    "masks": "none, rle or polygons",
    "format": "png, rle or polygons",
    inference.TIMEOUT: "seconds, more than 0",
}


def given_once(request: Request) -> None:
    """Refuse a query that names a parameter more than once, of which the last would count.

    Raises:
        RequestValidationError: Names each such parameter, as pydantic names its faults.
    """
    task = inference.PATHS.get(request.scope["path"])
    known = QUERIES[task].model_fields if task else {}
    values = {name: request.query_params.getlist(name) for name in known}
    faults = [
        {"type": _REPEATED, "loc": ("query", name), "input": came}
        for name, came in values.items()
        if len(came) > 1
    ]
    if faults:
        raise RequestValidationError(faults)


def refusal(task: str, faults: Sequence[Mapping[str, Any]]) -> GatewayError:
    """Say what is wrong with a query.

    Args:
        task: What was asked for.
        faults: What pydantic and :func:`given_once` found.
    """
    known = list(QUERIES[task].model_fields)
    return GatewayError(Code.INVALID_ARGUMENT, " ".join(_say(fault, known) for fault in faults))


def _say(fault: Mapping[str, Any], known: list[str]) -> str:
    name = str(fault["loc"][-1])
    if fault["type"] == _REPEATED:
        came = ", ".join(map(_shown, fault["input"][:_MOST_REPEATED]))
        more = ", …" if len(fault["input"]) > _MOST_REPEATED else ""
        return f"{name}: expected it once, got {came}{more}. Leave one of them."
    if name in known or name == inference.TIMEOUT:
        came = _shown(fault["input"])
        return f"{name}: expected {_EXPECTED[name]}, got {came}. Correct it, or leave it out."
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"Did you mean {near[0]}?" if near else "Leave it out."
    listed = f"{', '.join(known[:-1])} and {known[-1]}"
    return f"There is no parameter {_shown(name)}; there are {listed}. {mend}"


def _shown(came: object) -> str:
    text = str(came)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
