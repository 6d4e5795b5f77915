"""The JSON answers of the networks, as clients see them and as the OpenAPI document has them."""

from __future__ import annotations

import base64
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from service.answer import Answer
from service.cards import Size
from service.rest.problem import Problem
from service.tasks.classify import Prediction as Classified
from service.tasks.detect import Detection as Detected
from service.tasks.rle import Rle
from service.tasks.segment import Segmentation

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class Prediction(BaseModel):
    """One class and how sure the network is of it."""

    label_id: str = Field(description="Stable id of the class, such as a WordNet synset.")
    label: str = Field(description="Readable name.")
    index: int = Field(description="Place in the network's output, from zero.")
    score: float = Field(description="Probability, 0 to 1.")


class Timings(BaseModel):
    """Milliseconds by stage. The stages leave out what the transport itself takes."""

    read: float = Field(description="Until the whole body had arrived.")
    decode: float = Field(description="From the file's bytes to pixels.")
    preprocess: float = Field(description="Scaling and cutting to the network's input.")
    queue: float = Field(description="Waiting for a decoding thread and for the network.")
    infer: float = Field(description="The network.")
    postprocess: float = Field(description="From the outputs to the answer.")
    total: float = Field(description="All of it.")


_TIMINGS: Final = {
    "read": 0.11,
    "decode": 1.58,
    "preprocess": 1.17,
    "queue": 0.08,
    "infer": 4.9,
    "postprocess": 0.06,
    "total": 8.02,
}


def _example(model: str, **result: Any) -> ConfigDict:
    image = {"width": 640, "height": 480}
    example = {"model": model, "version": 1, **result, "image": image, "timings_ms": _TIMINGS}
    return ConfigDict(json_schema_extra={"example": example})


class PictureAnswer(BaseModel):
    """What every answer about a picture has."""

    model: str
    version: int
    image: Size = Field(description="The upright picture, before it was scaled.")
    timings_ms: Timings


def _about(answer: Answer[Any]) -> dict[str, Any]:
    return {
        "model": answer.model,
        "version": answer.version,
        "image": Size(width=answer.width_px, height=answer.height_px),
        "timings_ms": Timings.model_validate(answer.timings_ms),
    }


class ClassifyAnswer(PictureAnswer):
    """What a picture shows."""

    model_config = _example(
        "deit-tiny",
        predictions=[
            {"label_id": "n02123045", "label": "tabby, tabby cat", "index": 281, "score": 0.71}
        ],
    )

    predictions: list[Prediction] = Field(description="Likeliest classes, best first.")

    @classmethod
    def of(cls, answer: Answer[list[Classified]]) -> ClassifyAnswer:
        """Say a gateway's answer in JSON's words."""
        found = [Prediction.model_validate(p.__dict__) for p in answer.result]
        return cls(predictions=found, **_about(answer))


class Box(BaseModel):
    """Two corners in pixels of the upright picture, to a hundredth; inside the picture."""

    left: float
    top: float
    right: float
    bottom: float


class RunLengths(BaseModel):
    """A mask over the upright picture, in COCO's compressed form."""

    size: tuple[int, int] = Field(description="Height and width.")
    counts: str

    @classmethod
    def of(cls, runs: Rle | None) -> RunLengths | None:
        """Say it in JSON's words, if there is one."""
        return None if runs is None else cls(size=runs.size, counts=runs.counts)


Polygons = list[list[int]]
_POLYGONS: Final = (
    "The outer outline of each part: x1, y1, x2, y2 and so on, along the edges of pixels. Holes "
    "are filled."
)


class Detection(BaseModel):
    """One thing in a picture."""

    label_id: str = Field(description="Stable id of the class, such as that of a COCO category.")
    label: str = Field(description="Readable name.")
    index: int = Field(description="Place in the model's label set, from zero.")
    score: float = Field(description="How sure the network is, 0 to 1.")
    box: Box
    rle: RunLengths | None = Field(None, description="With `masks=rle`.")
    polygons: Polygons | None = Field(None, description=f"With `masks=polygons`. {_POLYGONS}")

    @classmethod
    def of(cls, found: Detected) -> Detection:
        """Say it in JSON's words."""
        left, top, right, bottom = found.rounded_box
        return cls(
            label_id=found.label_id,
            label=found.label,
            index=found.index,
            score=found.score,
            box=Box(left=left, top=top, right=right, bottom=bottom),
            rle=RunLengths.of(found.rle),
            polygons=found.polygons,
        )


class DetectAnswer(PictureAnswer):
    """What a picture holds, and where."""

    model_config = _example(
        "detr",
        detections=[
            {
                "label_id": "18",
                "label": "dog",
                "index": 16,
                "score": 0.93,
                "box": {"left": 104.5, "top": 88.25, "right": 410.0, "bottom": 371.62},
            }
        ],
    )

    detections: list[Detection] = Field(description="Highest score first.")

    @classmethod
    def of(cls, answer: Answer[list[Detected]]) -> DetectAnswer:
        """Say a gateway's answer in JSON's words."""
        return cls(detections=[Detection.of(found) for found in answer.result], **_about(answer))


class Area(BaseModel):
    """One class that a picture shows."""

    label_id: str = Field(description="Stable id of the class.")
    label: str = Field(description="Readable name.")
    index: int = Field(description="Place in the model's label set, and value in the map.")
    area_px: int = Field(description="How many pixels of the upright picture show it.")
    share: float = Field(description="The same by all pixels of the picture, 0 to 1.")
    rle: RunLengths | None = Field(None, description="With `format=rle`.")
    polygons: Polygons | None = Field(None, description=f"With `format=polygons`. {_POLYGONS}")


class SegmentAnswer(PictureAnswer):
    """What each pixel of a picture shows."""

    model_config = _example(
        "upernet",
        classes=[
            {"label_id": "3", "label": "sky", "index": 2, "area_px": 184320, "share": 0.6},
            {"label_id": "22", "label": "water", "index": 21, "area_px": 122880, "share": 0.4},
        ],
        unseen_px=0,
        class_map="iVBORw0KGgo",
    )

    classes: list[Area] = Field(description="Those that occur, largest first.")
    unseen_px: int = Field(
        description="Pixels that the network did not see, 255 in the map: where a model cuts out "
        "the middle of the picture."
    )
    class_map: str | None = Field(
        None,
        description="With `format=png`: an 8-bit grey PNG of the picture's size, in base64; the "
        "values are class indices.",
    )

    @classmethod
    def of(cls, answer: Answer[Segmentation]) -> SegmentAnswer:
        """Say a gateway's answer in JSON's words."""
        result = answer.result
        areas = [
            Area.model_validate({**area.__dict__, "rle": RunLengths.of(area.rle)})
            for area in result.classes
        ]
        png = None if result.png is None else base64.b64encode(result.png).decode("ascii")
        return cls(classes=areas, unseen_px=result.unseen_px, class_map=png, **_about(answer))


class Entry(BaseModel, Generic[AnswerT]):
    """What became of one of several pictures: an answer or a problem."""

    name: str | None = Field(None, description="The name of its file, or its URL, if it has one.")
    answer: AnswerT | None = None
    problem: Problem | None = None


class Answers(BaseModel, Generic[AnswerT]):
    """What became of each picture, in the order in which they came."""

    answers: list[Entry[AnswerT]]
