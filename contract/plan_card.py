"""The card of a plan: where it runs. Kept beside the model card in ``config.pbtxt``.

A plan runs on the version of TensorRT and the kind of GPU that it was built with, and on no other.
Its card says so before the plan is read, in words.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contract.errors import CardError

# The key under which config.pbtxt carries the cards of all plans of a model, by file name.
PARAMETER: Final = "gpusq_plans"
_TEXTS: Final = ("tensorrt", "capability", "gpu", "driver", "model_sha256")


@dataclass(frozen=True)
class PlanCard:
    """What a plan was built with.

    Args:
        tensorrt: Version, as ``tensorrt.__version__`` says it.
        capability: Compute capability of the GPU, as Triton writes it: "8.7".
        gpu: Its name, for people.
        driver: Of the machine, for people.
        flags: Of the builder.
        max_batch: The largest batch that it takes.
        model_sha256: Of the ONNX file that it was built from.
        sparsity: What was proved about sparse kernels, free keys.
    """

    tensorrt: str
    capability: str
    gpu: str
    driver: str
    flags: tuple[str, ...]
    max_batch: int
    model_sha256: str
    sparsity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a batch that is none.

        Raises:
            CardError: ``max_batch`` is below 1.
        """
        if self.max_batch < 1:
            raise CardError(f"a plan takes at least one picture, got max_batch = {self.max_batch}")

    def refusal(self, tensorrt: str, capability: str) -> str | None:
        """Say why the plan does not run here, what runs it, and what to do; None where it may.

        Args:
            tensorrt: Version that is installed here.
            capability: Of the GPU that is here.
        """
        if (self.tensorrt, self.capability) == (tensorrt, capability):
            return None
        return (
            f"expected a plan for TensorRT {tensorrt} and compute capability {capability}, this "
            f"one was built by TensorRT {self.tensorrt} for compute capability {self.capability} "
            f"({self.gpu}). Build it on this machine with 'gpusq plan'."
        )


def to_parameters(cards: Mapping[str, PlanCard]) -> dict[str, str]:
    """Return the cards of a model's plans, by file name, as Triton parameters; none without."""
    if not cards:
        return {}
    plain = {file: dataclasses.asdict(card) for file, card in sorted(cards.items())}
    return {PARAMETER: json.dumps(plain, separators=(",", ":"), ensure_ascii=False)}


def from_parameters(parameters: Mapping[str, str]) -> dict[str, PlanCard]:
    """Read the cards of a model's plans; none where the model has none.

    Raises:
        CardError: Not JSON, or a card with missing, unknown or wrong fields.
    """
    if PARAMETER not in parameters:
        return {}
    try:
        plain = json.loads(parameters[PARAMETER])
    except (ValueError, RecursionError) as error:
        raise CardError(f"the parameter {PARAMETER!r} is not JSON: {error}") from error
    if not isinstance(plain, dict):
        raise CardError(
            f"the parameter {PARAMETER!r} must be an object of plans by file name, got "
            f"{type(plain).__name__}"
        )
    return {file: _read(entry, f"{PARAMETER}[{file!r}]") for file, entry in plain.items()}


def _read(plain: object, where: str) -> PlanCard:
    if not isinstance(plain, dict):
        raise CardError(f"{where} must be an object, got {type(plain).__name__}")
    known = {entry.name for entry in dataclasses.fields(PlanCard)}
    if unknown := sorted(plain.keys() - known):
        raise CardError(f"{where} has unknown fields: {', '.join(unknown)}")
    if missing := sorted(known - plain.keys() - {"sparsity"}):
        raise CardError(f"{where} lacks: {', '.join(missing)}")
    for name in _TEXTS:
        _require(isinstance(plain[name], str), f"{where}.{name}", "text", plain[name])
    flags, most, sparsity = plain["flags"], plain["max_batch"], plain.get("sparsity", {})
    texts = isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)
    _require(texts, f"{where}.flags", "a list of texts", flags)
    _require(type(most) is int, f"{where}.max_batch", "a whole number", most)
    _require(isinstance(sparsity, dict), f"{where}.sparsity", "an object", sparsity)
    return PlanCard(**{**plain, "flags": tuple(flags), "sparsity": sparsity})


def _require(holds: bool, where: str, expected: str, found: object) -> None:
    if not holds:
        raise CardError(f"{where} must be {expected}, got {found!r}")
