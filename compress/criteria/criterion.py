"""The seam between the mixed distillation and what a network gives."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from torch import Tensor

# What a network gives before it becomes an answer, and what it is taught: a tensor, or several.
Raw: TypeAlias = "Tensor | dict[str, Tensor]"


class Criterion(Protocol):
    """Compares what networks give with labels and with each other. Holds no state."""

    def hard(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of outputs against labels; a scalar."""

    def soft(self, student: Any, teacher: Any, temperature: float) -> Tensor:
        """Return the loss of the student's outputs against the teacher's; a scalar."""

    def agreement(self, student: Any, teacher: Any) -> Tensor:
        """Return how far both agree on each picture; [b], 0 to 1."""

    def predicted(self, teacher: Any) -> Any:
        """Return the teacher's outputs as labels."""


def as_float(outputs: Any) -> Any:
    """Return outputs in float32, whatever format they were computed in."""
    if isinstance(outputs, dict):
        return {name: as_float(value) for name, value in outputs.items()}
    return outputs.float() if outputs.is_floating_point() else outputs
