"""What a plan was built by and for, which decides where it runs.

Plan building writes it into the parameters of ``config.pbtxt``, one card a file, so that whoever
serves can refuse a plan before it is loaded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contract.errors import CardError

# The key under which config.pbtxt carries the cards.
PARAMETER: Final = "gpusq_plans"


@dataclass(frozen=True)
class PlanCard:
    """Everything about one plan that its file does not say before it is loaded.

    Args:
        tensorrt: Version that built it, the only one that runs it, as "10.3.0".
        capability: Compute capability of the GPU that it was built on, as "8.7".
        gpu: Name of that GPU.
        driver: Version of CUDA that the driver of that machine provides, as "12.6".
        flags: Of the builder, by TensorRT's names.
        max_batch: Pictures at once, at most.
        model_sha256: Of the ONNX file that it was built from.
        sparsity: How many layers were eligible for sparse kernels, picked one, read INT8.
    """

    tensorrt: str
    capability: str
    gpu: str
    driver: str
    flags: tuple[str, ...]
    max_batch: int
    model_sha256: str = ""
    sparsity: Mapping[str, int] = field(default_factory=dict)

    def refusal(self, tensorrt: str, capability: str) -> str | None:
        """Say in one sentence why a plan does not run here; None where it does.

        Args:
            tensorrt: Version on this machine.
            capability: Compute capability of its GPU.

        >>> card = PlanCard("10.3.0", "8.7", "Orin", "12.6", (), 8)
        >>> card.refusal("10.3.0", "8.7")
        >>> card.refusal("8.6.1", "8.7")
        'the plan was built with TensorRT 10.3.0 and runs on no other, this machine has 8.6.1; \
build it here with gpusq plan'
        """
        if self.capability != capability:
            return (
                f"the plan was built for compute capability {self.capability} ({self.gpu}), this "
                f"GPU has {capability}; build it here with gpusq plan"
            )
        if self.tensorrt != tensorrt:
            return (
                f"the plan was built with TensorRT {self.tensorrt} and runs on no other, this "
                f"machine has {tensorrt}; build it here with gpusq plan"
            )
        return None


def to_parameters(plans: Mapping[str, PlanCard]) -> dict[str, str]:
    """Return the cards, by file name, as Triton model parameters; nothing without plans."""
    if not plans:
        return {}
    plain = {name: dataclasses.asdict(card) for name, card in sorted(plans.items())}
    return {PARAMETER: json.dumps(plain, separators=(",", ":"), ensure_ascii=False)}


def from_parameters(parameters: Mapping[str, str]) -> dict[str, PlanCard]:
    """Read what :func:`to_parameters` wrote, by file name; empty where there is none.

    Raises:
        CardError: It is not JSON, or lacks or has more than a card's fields.
    """
    if PARAMETER not in parameters:
        return {}
    try:
        plain: Any = json.loads(parameters[PARAMETER])
        return {name: _card(entry) for name, entry in plain.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CardError(
            f"{PARAMETER} is no list of plans of this release ({error}). Build the plan again with "
            "gpusq plan."
        ) from error


def _card(plain: Mapping[str, Any]) -> PlanCard:
    texts = ("tensorrt", "capability", "gpu", "driver", "model_sha256")
    card = PlanCard(**{**plain, "flags": tuple(plain["flags"])})
    if not all(isinstance(getattr(card, name), str) for name in texts):
        raise TypeError(f"expected texts for {', '.join(texts)}")
    return card
