"""Number formats by name: the grid that a scaled tensor is rounded to, and its ONNX type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx
import torch
from torch import Tensor


@dataclass(frozen=True)
class NumberFormat:
    """One format; a tensor in it is this grid times a scale, and zero is on every grid.

    Args:
        name: As recipes, cards and reports call it.
        bits: One value takes.
        low, high: Ends of the grid, to which larger values saturate.
        onnx_type: ``onnx.TensorProto.DataType``.
        integer: Whether the grid is made of whole numbers.
    """

    name: str
    bits: int
    low: float
    high: float
    onnx_type: int
    integer: bool = True

    def round(self, steps: Tensor) -> Tensor:
        """Return the nearest values of the grid, ties to even, saturating at its ends."""
        if self.bits == 32:
            return steps
        clipped = steps.clamp(self.low, self.high)
        if self.integer:
            return clipped.round()
        return clipped.to(torch.float8_e4m3fn).to(steps.dtype)


FLOAT32: Final = NumberFormat(
    "float32", 32, -torch.inf, torch.inf, onnx.TensorProto.FLOAT, integer=False
)
INT8: Final = NumberFormat("int8", 8, -128, 127, onnx.TensorProto.INT8)
INT4: Final = NumberFormat("int4", 4, -8, 7, onnx.TensorProto.INT4)
# What INT4 becomes for a tensor that is never negative: the same sixteen values, none wasted.
UINT4: Final = NumberFormat("uint4", 4, 0, 15, onnx.TensorProto.UINT4)
# E4M3 without infinities (Micikevicius et al., arXiv:2209.05433).
FP8: Final = NumberFormat("fp8", 8, -448, 448, onnx.TensorProto.FLOAT8E4M3FN, integer=False)

FORMATS: Final = {format_.name: format_ for format_ in (FLOAT32, INT8, INT4, FP8)}


def shown(weights: str, activations: str) -> str:
    """Return how people call a pair of formats.

    >>> shown("int8", "int8"), shown("int4", "int8"), shown("int4", "float32")
    ('INT8', 'INT4 with INT8 inputs', 'INT4 weights')
    """
    if weights == activations:
        return weights.upper()
    if activations == FLOAT32.name:
        return f"{weights.upper()} weights"
    return f"{weights.upper()} with {activations.upper()} inputs"
