"""Who is compared: a network's formats, each with the graph and the options it is built by.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import onnx

from compress.plan.build import Body
from compress.plan.twins import float_twin, fp8_twin, int4_twin
from contract.card import Precision

Graph = Literal["bundle", "float", "fp8", "int4"]
_FLOAT: Final = Precision("float32", "float32", "dense")

TWINS: Final[Mapping[Graph, Callable[[onnx.ModelProto], onnx.ModelProto]]] = {
    "bundle": lambda model: model,
    "float": float_twin,
    "fp8": fp8_twin,
    "int4": int4_twin,
}


@dataclass(frozen=True)
class Contender:
    """One column of the comparison.

    Args:
        name: As tables call it.
        graph: Which of the twins it runs.
        body: What is not quantised is computed in this.
        precision: What a GPU has to be able to do.
        sparse: Whether the builder may pick sparse kernels.
        dense_twin: Name of the contender that differs in that alone; empty where there is none.
    """

    name: str
    graph: Graph
    body: Body
    precision: Precision
    sparse: bool = False
    dense_twin: str = ""


# What ratios are of.
BASELINES: Final = ("FP32", "TF32", "FP16")


def contenders(precision: Precision) -> tuple[Contender, ...]:
    """Return who is compared for a bundle of a precision, the slowest first.

    Source:
        The paper compares with the dense network in FP32 (arXiv:2305.10727, Table 2) and does not
        say whether its products were in TF32, so that both are here, and FP16, which any
        deployment has without compressing.
    """
    name = format_name(precision)
    found = [
        Contender("FP32", "float", "float32", _FLOAT),
        Contender("TF32", "float", "tf32", _FLOAT),
        Contender("FP16", "float", "float16", _FLOAT),
    ]
    if precision.weights != "int4":
        found.append(
            Contender("INT4 weights", "int4", "float16", Precision("int4", "float32", "dense"))
        )
    if precision.weights == "int8":
        found.append(Contender("FP8", "fp8", "float16", Precision("fp8", "fp8", "dense")))
    if precision != _FLOAT:
        dense = Precision(precision.weights, precision.activations, "dense")
        found.append(Contender(f"{name} dense", "bundle", "float16", dense))
    if precision.sparsity == "2:4":
        twin = found[-1].name if precision != _FLOAT else ""
        found.append(
            Contender(f"{name} 2:4", "bundle", "float16", precision, sparse=True, dense_twin=twin)
        )
    return tuple(found)


def format_name(precision: Precision) -> str:
    """Return how people call a pair of formats.

    >>> format_name(Precision("int8", "int8", "2:4"))
    'INT8'
    >>> format_name(Precision("int4", "float32", "dense"))
    'INT4 weights'
    """
    if precision.activations == precision.weights:
        return precision.weights.upper()
    if precision.activations == "float32":
        return f"{precision.weights.upper()} weights"
    return f"{precision.weights.upper()} with {precision.activations.upper()} inputs"
