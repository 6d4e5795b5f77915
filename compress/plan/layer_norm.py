"""LayerNormalization in parts, for TensorRT 8.5, whose parser has no such operator.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from compress.errors import PlanError

# Begins the name of every part: a builder that chooses types has to leave these in float32, since
# squares of a residual stream leave the range of float16.
PREFIX: Final = "layer_norm_part"


def in_parts(graph: onnx.GraphProto) -> None:
    """Replace every LayerNormalization of a graph, in place. Needs opset 17 or earlier.

    Raises:
        PlanError: One gives out more than its result.
    """
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += _parts(node, graph) if node.op_type == "LayerNormalization" else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _parts(node: NodeProto, graph: onnx.GraphProto) -> list[NodeProto]:
    if len([name for name in node.output if name]) > 1:
        raise PlanError(
            f"the LayerNormalization {node.name!r} gives out its statistics too, which TensorRT "
            "8.5 cannot. Build with TensorRT 8.6 or later."
        )
    settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if settings.get("axis", -1) >= 0:
        raise PlanError(
            f"the LayerNormalization {node.name!r} counts its axis from the front. Export the "
            "network again, or build with TensorRT 8.6 or later."
        )
    axes = list(range(settings.get("axis", -1), 0))
    values, weight, *bias = node.input
    result = node.output[0]
    epsilon = f"{result}_epsilon"
    stored = np.float32(settings.get("epsilon", 1e-5))
    graph.initializer.append(numpy_helper.from_array(np.array(stored), epsilon))

    def part(operator: str, inputs: list[str], made: str, **attributes: Any) -> NodeProto:
        name = f"{PREFIX}_{made}"
        return helper.make_node(operator, inputs, [made], name=name, **attributes)

    mean, apart, square, variance, moved, root, normal, scaled = (
        f"{result}_{name}"
        for name in ("mean", "apart", "square", "variance", "moved", "root", "normal", "scaled")
    )
    return [
        part("ReduceMean", [values], mean, axes=axes, keepdims=1),
        part("Sub", [values, mean], apart),
        part("Mul", [apart, apart], square),
        part("ReduceMean", [square], variance, axes=axes, keepdims=1),
        part("Add", [variance, epsilon], moved),
        part("Sqrt", [moved], root),
        part("Div", [apart, root], normal),
        part("Mul", [normal, weight], scaled if bias else result),
        *([part("Add", [scaled, *bias], result)] if bias else []),
    ]
