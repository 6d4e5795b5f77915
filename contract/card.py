"""The model card: what the runtime cannot say about a network.

Export writes it as ``card.json``, plan building copies it into the ``parameters`` of
``config.pbtxt``, an executor reads it back. Code never travels with a model; this does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_type_hints

from contract import labels
from contract.errors import CardError
from contract.labels import LabelSet
from contract.preprocessing import Preprocessing

CARD_VERSION: Final = 1
TASKS: Final = ("classify", "detect", "segment")
SCORES: Final = ("probability",)
# The key under which config.pbtxt carries the card.
PARAMETER: Final = "gpusq_card"
NUMBER_FORMATS: Final = ("float32", "int8", "int4", "fp8")
# What an accuracy may count, each as a fraction.
METRICS: Final = ("top1", "mean_iou", "pixel_accuracy", "box_ap", "mask_ap")
# Of 8 bits, the last value stands for what no network saw.
MAX_MAPPED_CLASSES: Final = 255
PATTERNS: Final = ("dense", "2:4", "4:8")
# What JSON may hold for a scalar field, and how an error calls it. A bool is none of them.
_SCALARS: Final[dict[Any, tuple[tuple[type, ...], str]]] = {
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    float | None: ((int, float, type(None)), "a number or null"),
}


@dataclass(frozen=True)
class Precision:
    """Number formats of the compressed layers.

    Args:
        weights: "float32", "int8", "int4" or "fp8".
        activations: "float32", "int8", "int4" or "fp8".
        sparsity: "dense", or the pattern along the reduction axis: "2:4", or "4:8" in adjacent
            pairs.
    """

    weights: str
    activations: str
    sparsity: str

    def __post_init__(self) -> None:
        """Refuse formats and patterns that no reader knows.

        Raises:
            CardError: Unknown number format or sparsity pattern.
        """
        _one_of("precision.weights", self.weights, NUMBER_FORMATS)
        _one_of("precision.activations", self.activations, NUMBER_FORMATS)
        _one_of("precision.sparsity", self.sparsity, PATTERNS)


@dataclass(frozen=True)
class Accuracy:
    """How often one network is right on one data set, as a fraction.

    Args:
        data: What it was measured on, in words.
        images: How many pictures were scored.
        teacher: The dense network.
        sparse: The sparse float student; None where no such network was made.
        quantized: The network in this bundle.
        metric: What the fractions are: "top1" (share of pictures whose first class is right),
            "mean_iou" (over the classes), "pixel_accuracy" (share of labelled pixels), "box_ap"
            or "mask_ap" (COCO's average precision over IoU 0.50 to 0.95).
    """

    data: str
    images: int
    teacher: float
    sparse: float | None
    quantized: float
    metric: str = "top1"

    def __post_init__(self) -> None:
        """Refuse percentages, NaN, measurements on nothing and of nothing known.

        Raises:
            CardError: A value outside 0..1, no picture, or an unknown metric.
        """
        _one_of("accuracy.metric", self.metric, METRICS)
        if self.images < 1:
            raise CardError(f"accuracy needs at least one picture, got images = {self.images}")
        for name in ("teacher", "sparse", "quantized"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise CardError(f"accuracy.{name} is a fraction from 0 to 1, got {value!r}")


@dataclass(frozen=True)
class ModelCard:
    """Everything about one exported network that its graph does not say.

    Args:
        task: "classify", "detect" or "segment".
        labels: The names behind the class axis.
        preprocessing: How a picture becomes the graph's input ``image``.
        scores: What the network's scores are. "probability": from 0 to 1. They sum to one over the
            classes where the task is "classify"; in "detect" each is that of one box by itself;
            "segment" has none, its class map names the likeliest class of each pixel.
        precision: Number formats and sparsity.
        accuracy: One entry a data set; may be empty.
        provenance: Where the network came from, free keys: teacher, licence, data, versions.
        description: One sentence for people who choose a model.
    """

    task: str
    labels: LabelSet
    preprocessing: Preprocessing
    precision: Precision
    scores: str = "probability"
    accuracy: tuple[Accuracy, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse a task or a score meaning that no reader knows.

        Raises:
            CardError: Unknown task or score meaning, or more classes than a class map holds.
        """
        _one_of("task", self.task, TASKS)
        _one_of("scores", self.scores, SCORES)
        if self.task == "segment" and len(self.labels) > MAX_MAPPED_CLASSES:
            raise CardError(
                f"a class map tells at most {MAX_MAPPED_CLASSES} classes apart, the card has "
                f"{len(self.labels)} labels"
            )

    def to_json(self) -> str:
        """Return the card as JSON text, readable and with stable order."""
        return json.dumps(self._plain(), indent=2, ensure_ascii=False) + "\n"

    def to_parameters(self) -> dict[str, str]:
        """Return the card as Triton model parameters."""
        return {PARAMETER: json.dumps(self._plain(), separators=(",", ":"), ensure_ascii=False)}

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card.

        Raises:
            CardError: Not JSON, another card version, missing or unknown fields.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CardError(f"the card is not JSON: {error}") from error
        if not isinstance(plain, dict):
            raise CardError(f"the card must be a JSON object, got {type(plain).__name__}")
        version = plain.pop("card_version", None)
        if version != CARD_VERSION:
            raise CardError(
                f"this card has version {version!r}, this release reads {CARD_VERSION}. "
                "Export the model again with this release."
            )
        card: ModelCard = _build(cls, plain, "card")
        return card

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> ModelCard:
        """Read the card that :meth:`to_parameters` put into a Triton configuration.

        Raises:
            CardError: There is no card among the parameters, or it cannot be read.
        """
        if PARAMETER not in parameters:
            raise CardError(
                f"the configuration has no parameter {PARAMETER!r}. "
                "Write it with: gpusq publish BUNDLE --repository DIR"
            )
        return cls.from_json(parameters[PARAMETER])

    def _plain(self) -> dict[str, Any]:
        plain = {"card_version": CARD_VERSION, **dataclasses.asdict(self)}
        plain["provenance"] = dict(self.provenance)
        if self.labels.name == "inline":
            plain["labels"] = {"names": list(self.labels.names)}
        else:
            plain["labels"] = {"set": self.labels.name}
        return plain


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise CardError(f"{where} must be one of {', '.join(known)}, got {value!r}")


def _build(kind: type[Any], plain: object, where: str) -> Any:
    """Build one dataclass of the card from parsed JSON, refusing what it does not know."""
    if not isinstance(plain, dict):
        raise CardError(f"{where} must be an object, got {type(plain).__name__}")
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    if unknown := sorted(plain.keys() - known.keys()):
        raise CardError(f"{where} has unknown fields: {', '.join(unknown)}")
    required = {
        name
        for name, entry in known.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - plain.keys()):
        raise CardError(f"{where} lacks: {', '.join(missing)}")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], value, f"{where}.{name}") for name, value in plain.items()}
    try:
        return kind(**values)
    except CardError:
        raise
    except ValueError as error:
        raise CardError(f"{where}: {error}") from error


def _value(hint: Any, plain: object, where: str) -> Any:
    """Read one field by the type that its dataclass gives it."""
    if hint in _SCALARS:
        return _scalar(hint, plain, where)
    if hint is LabelSet:
        return _labels(plain)
    if hint == tuple[Accuracy, ...]:
        return _accuracies(plain, where)
    if hint == Mapping[str, str]:
        return _texts(plain, where)
    return _build(hint, plain, where)


def _scalar(hint: Any, plain: object, where: str) -> object:
    types, expected = _SCALARS[hint]
    if type(plain) not in types:
        raise CardError(f"{where} must be {expected}, got {plain!r}")
    return plain


def _accuracies(plain: object, where: str) -> tuple[Accuracy, ...]:
    if not isinstance(plain, list):
        raise CardError(f"{where} must be a list, got {plain!r}")
    return tuple(_build(Accuracy, entry, f"{where}[{index}]") for index, entry in enumerate(plain))


def _texts(plain: object, where: str) -> dict[str, str]:
    if not isinstance(plain, dict) or not all(isinstance(text, str) for text in plain.values()):
        raise CardError(f"{where} must be an object of texts, got {plain!r}")
    return plain


def _labels(plain: object) -> LabelSet:
    match plain:
        case {"set": str(name), **others} if not others:
            return labels.load(name)
        case {"names": [*names], **others} if not others and all(
            isinstance(name, str) for name in names
        ):
            return labels.inline([str(name) for name in names])
    raise CardError(f"labels must be {{'set': NAME}} or {{'names': [...]}}, got {plain!r}")
