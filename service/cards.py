"""What the service says of its models, and whether they can be asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from service.executors.executor import Model
from service.gateway import Gateway
from service.settings import Settings
from service.tasks import detect


class Size(BaseModel):
    """Width and height in pixels."""

    width: int
    height: int


class PrecisionAnswer(BaseModel):
    """Number formats of the compressed layers."""

    weights: str
    activations: str


class AccuracyAnswer(BaseModel):
    """How often a network is right on one data set, 0 to 1."""

    data: str
    metric: str = Field(
        description="`top1`, `mean_iou`, `pixel_accuracy`, or COCO's `box_ap` or `mask_ap`."
    )
    images: int
    teacher: float
    sparse: float | None
    quantized: float


class ModelAnswer(BaseModel):
    """One model of the repository. An unavailable one has a name and a reason only."""

    name: str
    state: Literal["ready", "unavailable"]
    default: bool = Field(
        description="Whether it answers requests for its task that name no model; of several that "
        "do, as an alias has them, the one that answers most."
    )
    reason: str | None = Field(None, description="Why it is unavailable.")
    version: int | None = None
    behind: str | None = Field(
        None, description="Why a newer version, which lies in the repository, does not answer."
    )
    task: str | None = Field(None, description="Where it is asked: `/v1/` and this.")
    description: str | None = None
    input: Size | None = Field(None, description="What the network sees of a picture.")
    precision: PrecisionAnswer | None = None
    sparsity: str | None = Field(None, description="'dense', or a pattern such as '2:4'.")
    file_bytes: int | None = Field(
        None, description="Size of the file that is loaded; null where Triton loads it."
    )
    classes: int | None = None
    masks: bool | None = Field(None, description="Whether what it detects can come with a mask.")
    accuracy: list[AccuracyAnswer] = []
    executor: str | None = None


class AliasAnswer(BaseModel):
    """A name that stands for several models."""

    name: str
    state: Literal["ready", "unavailable"]
    default: bool = Field(
        description="Whether it answers requests for its task that name no model."
    )
    reason: str | None = Field(None, description="Why it is unavailable.")
    task: str | None = None
    models: dict[str, float] = Field(
        description="Who answers, with the share of the requests; one that is unavailable leaves "
        "its share to the others."
    )

    @classmethod
    def of(cls, gateway: Gateway, name: str) -> AliasAnswer:
        """Describe one alias."""
        catalogue = gateway.catalogue
        weights = catalogue.aliases[name]
        total, ready = sum(weights.values()), catalogue.answers(name)
        return cls(
            name=name,
            state="ready" if ready else "unavailable",
            default=name in gateway.defaults.values(),
            reason=None if ready else "none of its models answers, or they are for several tasks",
            task=min(catalogue.tasks(name)) if ready else None,
            models={model: round(weight / total, 4) for model, weight in weights.items()},
        )


class Limits(BaseModel):
    """The largest picture that is accepted."""

    max_body_bytes: int
    max_pixels: int


class ModelsAnswer(BaseModel):
    """Every model of the repository."""

    models: list[ModelAnswer]
    aliases: list[AliasAnswer] = []
    limits: Limits

    @classmethod
    def of(cls, gateway: Gateway, settings: Settings) -> ModelsAnswer:
        """Describe what a gateway serves."""
        names = sorted({*gateway.models, *gateway.unavailable})
        limits = Limits(max_body_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
        aliases = [AliasAnswer.of(gateway, name) for name in sorted(gateway.catalogue.aliases)]
        models = [_model(gateway, name) for name in names]
        return cls(models=models, aliases=aliases, limits=limits)


class Readiness(BaseModel):
    """Whether pictures can be sent, and the state of each model."""

    ready: bool
    models: dict[str, Literal["ready", "unavailable"]]


def _model(gateway: Gateway, name: str) -> ModelAnswer:
    if name in gateway.unavailable:
        reason, default = gateway.unavailable[name], name == gateway.default
        return ModelAnswer(name=name, state="unavailable", default=default, reason=reason)
    model = gateway.models[name]
    card = model.card
    return ModelAnswer(
        name=name,
        state="ready",
        default=name == gateway.catalogue.foremost(gateway.defaults[card.task]),
        version=model.version,
        behind=gateway.catalogue.behind.get(name),
        task=card.task,
        description=card.description,
        input=Size(width=card.preprocessing.width, height=card.preprocessing.height),
        precision=PrecisionAnswer(
            weights=card.precision.weights, activations=card.precision.activations
        ),
        sparsity=card.precision.sparsity,
        file_bytes=model.file_bytes,
        classes=len(card.labels),
        masks=_has_masks(model),
        accuracy=[AccuracyAnswer.model_validate(entry.__dict__) for entry in card.accuracy],
        executor=gateway.executor_name,
    )


def _has_masks(model: Model) -> bool | None:
    if model.card.task != detect.TASK.name:
        return None
    return any(output.name == detect.MASKS for output in model.outputs)
