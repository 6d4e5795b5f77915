"""The JSON answers, as clients see them and as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.gateway import Classification, Gateway
from service.settings import Settings


class Prediction(BaseModel):
    """One class and how sure the network is of it."""

    label_id: str = Field(description="Stable id of the class, such as a WordNet synset.")
    label: str = Field(description="Readable name.")
    index: int = Field(description="Place in the network's output, from zero.")
    score: float = Field(description="Probability, 0 to 1.")


class Size(BaseModel):
    """Width and height in pixels."""

    width: int
    height: int


class Timings(BaseModel):
    """Milliseconds by stage. The stages leave out what the transport itself takes."""

    read: float = Field(description="Until the whole body had arrived.")
    decode: float = Field(description="From the file's bytes to pixels.")
    preprocess: float = Field(description="Scaling and cutting to the network's input.")
    queue: float = Field(description="Waiting for a decoding thread and for the network.")
    infer: float = Field(description="The network.")
    postprocess: float = Field(description="From scores to labels.")
    total: float = Field(description="All of it.")


class ClassifyAnswer(BaseModel):
    """What a picture shows."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "deit-tiny",
                "version": 1,
                "predictions": [
                    {
                        "label_id": "n02123045",
                        "label": "tabby, tabby cat",
                        "index": 281,
                        "score": 0.71,
                    }
                ],
                "image": {"width": 640, "height": 480},
                "timings_ms": {
                    "read": 0.11,
                    "decode": 1.58,
                    "preprocess": 1.17,
                    "queue": 0.08,
                    "infer": 4.9,
                    "postprocess": 0.06,
                    "total": 8.02,
                },
            }
        }
    )

    model: str
    version: int
    predictions: list[Prediction] = Field(description="Likeliest classes, best first.")
    image: Size = Field(description="The upright picture, before it was scaled.")
    timings_ms: Timings

    @classmethod
    def of(cls, result: Classification) -> ClassifyAnswer:
        """Say a gateway's answer in JSON's words."""
        return cls(
            model=result.model,
            version=result.version,
            predictions=[Prediction.model_validate(p.__dict__) for p in result.predictions],
            image=Size(width=result.width_px, height=result.height_px),
            timings_ms=Timings.model_validate(result.timings_ms),
        )


class PrecisionAnswer(BaseModel):
    """Number formats of the compressed layers."""

    weights: str
    activations: str


class AccuracyAnswer(BaseModel):
    """Top-1 accuracy on one data set, 0 to 1."""

    data: str
    images: int
    teacher: float
    sparse: float | None
    quantized: float


class ModelAnswer(BaseModel):
    """One model of the repository. An unavailable one has a name and a reason only."""

    name: str
    state: Literal["ready", "unavailable"]
    default: bool = Field(description="Whether it answers requests that name no model.")
    reason: str | None = Field(None, description="Why it is unavailable.")
    version: int | None = None
    task: str | None = None
    description: str | None = None
    input: Size | None = Field(None, description="What the network sees of a picture.")
    precision: PrecisionAnswer | None = None
    sparsity: str | None = Field(None, description="'dense', or a pattern such as '2:4'.")
    classes: int | None = None
    accuracy: list[AccuracyAnswer] = []
    executor: str | None = None


class Limits(BaseModel):
    """The largest picture that is accepted."""

    max_body_bytes: int
    max_pixels: int


class ModelsAnswer(BaseModel):
    """Every model of the repository."""

    models: list[ModelAnswer]
    limits: Limits

    @classmethod
    def of(cls, gateway: Gateway, settings: Settings) -> ModelsAnswer:
        """Describe what a gateway serves."""
        names = sorted({*gateway.models, *gateway.unavailable})
        limits = Limits(max_body_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
        return cls(models=[_model(gateway, name) for name in names], limits=limits)


class Readiness(BaseModel):
    """Whether pictures can be sent, and the state of each model."""

    ready: bool
    models: dict[str, Literal["ready", "unavailable"]]


def _model(gateway: Gateway, name: str) -> ModelAnswer:
    default = name == gateway.default
    if name in gateway.unavailable:
        reason = gateway.unavailable[name]
        return ModelAnswer(name=name, state="unavailable", default=default, reason=reason)
    model = gateway.models[name]
    card = model.card
    return ModelAnswer(
        name=name,
        state="ready",
        default=default,
        version=model.version,
        task=card.task,
        description=card.description,
        input=Size(width=card.preprocessing.width, height=card.preprocessing.height),
        precision=PrecisionAnswer(
            weights=card.precision.weights, activations=card.precision.activations
        ),
        sparsity=card.precision.sparsity,
        classes=len(card.labels),
        accuracy=[AccuracyAnswer.model_validate(entry.__dict__) for entry in card.accuracy],
        executor=gateway.executor_name,
    )
