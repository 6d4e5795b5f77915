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
from contract.preprocess import Preprocessing

CARD_VERSION: Final = 1
TASKS: Final = ("classify",)
# The key under which config.pbtxt carries the card.
PARAMETER: Final = "gpusq_card"
_SCALARS: Final[dict[Any, tuple[type, ...]]] = {str: (str,), int: (int,), float: (int, float)}


@dataclass(frozen=True)
class Precision:
    """Number formats of the compressed layers.

    Args:
        weights: "float32" or "int8".
        activations: "float32" or "int8".
        sparsity: "dense" or the pattern along the reduction axis, "2:4".
    """

    weights: str
    activations: str
    sparsity: str


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of one network on one data set, as a fraction.

    Args:
        data: What it was measured on, in words.
        images: How many pictures were scored.
        teacher: The dense network.
        sparse: The sparse float student; None where no such network was made.
        quantized: The network in this bundle.
    """

    data: str
    images: int
    teacher: float
    sparse: float | None
    quantized: float


@dataclass(frozen=True)
class ModelCard:
    """Everything about one exported network that its graph does not say.

    Args:
        task: "classify".
        labels: The names behind the class axis.
        preprocessing: How a picture becomes the graph's input ``image``.
        scores: What ``scores`` are: "probability" sums to one over the classes.
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
            CardError: Unknown task or score meaning.
        """
        if self.task not in TASKS:
            raise CardError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.scores != "probability":
            raise CardError(f"scores must be 'probability', got {self.scores!r}")

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
        except json.JSONDecodeError as error:
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
    scalars = {name: hint for name, hint in get_type_hints(kind).items() if hint in _SCALARS}
    for name, value in plain.items():
        if name in scalars and not isinstance(value, _SCALARS[scalars[name]]):
            expected = scalars[name].__name__
            raise CardError(f"{where}.{name} must be {expected}, got {value!r}")
    values = {name: _value(name, value, f"{where}.{name}") for name, value in plain.items()}
    try:
        return kind(**values)
    except CardError:
        raise
    except (TypeError, ValueError) as error:
        raise CardError(f"{where}: {error}") from error


def _value(name: str, plain: Any, where: str) -> Any:
    if name == "labels":
        return _labels(plain)
    if name == "accuracy":
        return tuple(_build(Accuracy, entry, where) for entry in plain)
    parts: dict[str, type[Any]] = {"preprocessing": Preprocessing, "precision": Precision}
    return _build(parts[name], plain, where) if name in parts else plain


def _labels(plain: object) -> LabelSet:
    match plain:
        case {"set": str(name)}:
            return labels.load(name)
        case {"names": [*names]} if all(isinstance(name, str) for name in names):
            return labels.inline([str(name) for name in names])
    raise CardError(f"labels must be {{'set': NAME}} or {{'names': [...]}}, got {plain!r}")
