"""What GPUs and versions of TensorRT can do, and a refusal in one sentence where they cannot.

The lines are what NVIDIA documents of these versions; INT8 and FP8 stand for tensor cores that
multiply them. None was tried here. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from compress.errors import PlanError
from contract.card import Precision


@dataclass(frozen=True)
class Version:
    """One line of TensorRT versions that behave alike.

    Args:
        name: As people call it.
        first: Oldest release of it, major and minor.
        strongly_typed: Whether engines are built in the types of the ONNX file.
        opset: Of the ONNX file that it is given.
        formats: Of weights, as cards name them.
        layer_norms: Whether it reads the operator LayerNormalization.
    """

    name: str
    first: tuple[int, int]
    strongly_typed: bool
    opset: str
    formats: tuple[str, ...]
    layer_norms: bool = True

    def __str__(self) -> str:
        """Return the version's line of the table."""
        typing = "strongly typed" if self.strongly_typed else "types chosen by the builder"
        return f"TensorRT {self.name}: {typing}, opset {self.opset}, {', '.join(self.formats)}"


@dataclass(frozen=True)
class Gpu:
    """A GPU as TensorRT sees it.

    Args:
        capability: Compute capability, major and minor.
        name: As the driver calls it; may be empty.
    """

    capability: tuple[int, int]
    name: str = ""

    @property
    def sm(self) -> str:
        """The capability as compilers write it: ``sm80``."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    def __str__(self) -> str:
        """Return the GPU's line of the table."""
        able = [
            feature if self.capability >= since else f"no {feature}"
            for feature, since in FEATURES.items()
        ]
        return f"{self.name or 'this GPU'} ({self.sm}): {', '.join(able)}"


_PLAIN: Final = ("float32", "int8")
VERSIONS: Final = (
    Version("8.5", (8, 5), strongly_typed=False, opset="17", formats=_PLAIN, layer_norms=False),
    Version("8.6", (8, 6), strongly_typed=False, opset="17", formats=_PLAIN),
    Version("10", (10, 0), strongly_typed=True, opset="19 to 21", formats=(*_PLAIN, "fp8", "int4")),
    Version("11", (11, 0), strongly_typed=True, opset="19 to 21", formats=(*_PLAIN, "fp8", "int4")),
)
# By the compute capability that brought each.
FEATURES: Final = {"INT8": (7, 2), "2:4 sparse kernels": (8, 0), "FP8": (8, 9)}


def table() -> str:
    """Return what each version and each kind of GPU takes, one line each."""
    gpus = (
        Gpu((7, 5), "T4"),
        Gpu((8, 0), "A100"),
        Gpu((8, 7), "Jetson AGX Orin"),
        Gpu((8, 9), "L40S"),
        Gpu((9, 0), "H100 and H200"),
    )
    return "\n".join(map(str, (*VERSIONS, *gpus)))


def version(text: str) -> Version:
    """Find the line of a TensorRT version such as ``10.3.0.26``.

    Raises:
        PlanError: No plan is built with this version.
    """
    found = re.match(r"(\d+)\.(\d+)", text)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    known = [line for line in VERSIONS if line.first <= numbers and line.first[0] == numbers[0]]
    if not known:
        raise PlanError(
            f"plans are built with TensorRT {', '.join(line.name for line in VERSIONS)}, found "
            f"TensorRT {text or '?'}. Install one of these."
        )
    return known[-1]


def check(precision: Precision, tensorrt: str, gpu: Gpu) -> Version:
    """Refuse a network that this GPU or this TensorRT does not run in its own format.

    Args:
        precision: By the card.
        tensorrt: Version, as TensorRT gives it.
        gpu: For which the plan would be built.

    Raises:
        PlanError: Says what is missing and shows the line of the table that says so.
    """
    line = version(tensorrt)
    _check_int4(precision, line)
    for form in (precision.weights, precision.activations):
        _check_format(form, line, gpu)
    if precision.sparsity == "2:4" and gpu.capability < FEATURES["2:4 sparse kernels"]:
        raise PlanError(
            f"this network is 2:4 sparse, for which kernels need compute capability 8.0 ({gpu}). "
            "Build on an Ampere GPU or later, or build its dense twin: --dense."
        )
    return line


def _check_int4(precision: Precision, line: Version) -> None:
    if precision.activations == "int4":
        raise PlanError(
            "no TensorRT multiplies INT4 with INT4, on any GPU: INT4 is a format of weights alone "
            f"({line}). Compress with quantize.activations: float32, or to INT8."
        )
    if precision.weights == "int4" and precision.activations != "float32":
        raise PlanError(
            "TensorRT takes INT4 weights with inputs that are not quantised, this network has "
            f"{precision.activations} inputs ({line}). Compress with quantize.activations: float32."
        )


def _check_format(form: str, line: Version, gpu: Gpu) -> None:
    if form not in line.formats:
        raise PlanError(
            f"this network is in {form}, which this TensorRT does not take ({line}). Build with "
            "TensorRT 10 or later, or compress to INT8."
        )
    since = FEATURES.get(form.upper())
    if since and gpu.capability < since:
        raise PlanError(
            f"this network is in {form}, which needs compute capability {since[0]}.{since[1]} "
            f"({gpu}). Compress to another format for this GPU."
        )
