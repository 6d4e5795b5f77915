"""Stored INT8 weights as float weights that a QuantizeLinear rounds, as TensorRT 8 wants them.

Its parser takes no INT8 constants but zero points ("invalid weights type of Int8"); from 10 on
weights may be stored either way. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


def unfold(graph: onnx.GraphProto) -> None:
    """Put a float weight and a QuantizeLinear in place of each stored INT8 weight, in place.

    The rounded weight is the stored one: a step times its scale, divided by it, is that step but
    for the last digit.
    """
    stored = {entry.name: entry for entry in graph.initializer}
    unfolded: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is not None and weight.data_type == TensorProto.INT8:
            nodes += _rounded(node, weight, graph, stored, unfolded)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _rounded(
    node: NodeProto,
    weight: TensorProto,
    graph: onnx.GraphProto,
    stored: dict[str, TensorProto],
    unfolded: set[str],
) -> list[NodeProto]:
    rounded, values = f"{weight.name}_rounded", f"{weight.name}_float"
    made = []
    if rounded not in unfolded:
        unfolded.add(rounded)
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        scale = numpy_helper.to_array(stored[node.input[1]])
        entry = numpy_helper.from_array(_scaled(weight, scale, axis), values)
        graph.initializer.append(entry)
        inputs = [values, *node.input[1:]]
        made = [
            helper.make_node(
                "QuantizeLinear", inputs, [rounded], name=f"round_{rounded}", axis=axis
            )
        ]
    node.input[0] = rounded
    return made


def _scaled(
    weight: TensorProto, scale: npt.NDArray[np.float32], axis: int
) -> npt.NDArray[np.float32]:
    steps = numpy_helper.to_array(weight).astype(np.float32)
    if scale.ndim:
        shape = [1] * steps.ndim
        shape[axis] = len(scale)
        scale = scale.reshape(shape)
    return steps * scale
