"""What a request may choose, and what is wrong with a choice, in words for who sent it.

No word of HTTP or gRPC: names, limits and sentences are the same whatever brings a request.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import Code, GatewayError, shown
from service.settings import MAX_TOP_K, Settings
from service.tasks import classify, detect, segment

REPEATED: Final = "repeated"
_MOST_REPEATED: Final = 3
MOST_DETECTIONS: Final = 1000


ParametersT = TypeVar("ParametersT", bound="Parameters")


class Parameters(BaseModel):
    """What every request may choose; anything else is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, description="A name from /v1/models; the default model of the task without it."
    )


class ClassifyParameters(Parameters):
    """What a classification may choose."""

    top_k: int | None = Field(
        None,
        ge=1,
        le=MAX_TOP_K,
        description="How many classes to name. A model with fewer classes names all of them.",
    )

    def options(self, settings: Settings) -> classify.Options:
        """Return them as the task has them."""
        return classify.Options(self.top_k or settings.top_k)


class DetectParameters(Parameters):
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

    def options(self) -> detect.Options:
        """Return them as the task has them."""
        return detect.Options(self.min_score, self.max_detections, self.masks)


class SegmentParameters(Parameters):
    """What a segmentation may choose."""

    format: segment.Format = Field(
        "png",
        description="How the map comes: `png`, an 8-bit grey PNG whose values are "
        "class indices; or for each class `rle`, COCO's compressed run lengths, or `polygons`.",
    )

    def options(self) -> segment.Options:
        """Return them as the task has them."""
        return segment.Options(self.format)


OF_TASK: Final[Mapping[str, type[Parameters]]] = {
    "classify": ClassifyParameters,
    "detect": DetectParameters,
    "segment": SegmentParameters,
}
_EXPECTED: Final = {
    "model": "a name",
    "top_k": f"a whole number from 1 to {MAX_TOP_K}",
    "min_score": "a number from 0 to 1",
    "max_detections": f"a whole number from 1 to {MOST_DETECTIONS}",
    "masks": "none, rle or polygons",
    "format": "png, rle or polygons",
}


def parse(kind: type[ParametersT], task: str, given: Mapping[str, Any]) -> ParametersT:
    """Return the parameters of a request.

    Args:
        kind: Of the task.
        task: What is asked for.
        given: Those that the request has.

    Raises:
        GatewayError: One of them is not as expected.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise refusal(task, error.errors()) from error


def refusal(
    task: str | None, faults: Sequence[Mapping[str, Any]], others: Mapping[str, str] | None = None
) -> GatewayError:
    """Say what is wrong with the parameters of a request.

    Args:
        task: What was asked for; None where parameters choose nothing.
        faults: What pydantic found; a transport may add the type :data:`REPEATED`.
        others: What is expected of more that a transport takes, by name.
    """
    known = list(OF_TASK[task].model_fields) if task else []
    expected = {**{name: _EXPECTED[name] for name in known}, **(others or {})}
    said = (_say(fault, known, expected) for fault in faults)
    return GatewayError(Code.INVALID_ARGUMENT, " ".join(said))


def _say(fault: Mapping[str, Any], known: list[str], expected: Mapping[str, str]) -> str:
    name = str(fault["loc"][-1])
    if fault["type"] == REPEATED:
        came = ", ".join(map(shown, fault["input"][:_MOST_REPEATED]))
        more = ", …" if len(fault["input"]) > _MOST_REPEATED else ""
        return f"{name}: expected it once, got {came}{more}. Leave one of them."
    if name in expected:
        came = shown(fault["input"])
        return f"{name}: expected {expected[name]}, got {came}. Correct it, or leave it out."
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"Did you mean {near[0]}?" if near else "Leave it out."
    listed = f"{', '.join(known[:-1])} and {known[-1]}"
    return f"There is no parameter {shown(name)}; there are {listed}. {mend}"
