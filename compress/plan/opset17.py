"""Operators of opset 18 in the form that they have in 17, and as TensorRT 8 reads them.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.errors import PlanError

# The newest that the ONNX parser of TensorRT 8.6 documents.
OPSET: Final = 17


def take_back(graph: onnx.GraphProto) -> None:
    """Rewrite a graph of opset 18, in place.

    Raises:
        PlanError: An operator does what 17 has no word for.
    """
    stored = {entry.name: entry for entry in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Split":
            # Without lengths, equal parts, as many as there are outputs.
            _drop(node, "num_outputs")
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _tell_axes(node, stored)
        _drop_new_attributes(node)
        nodes += _whole_shape(node, graph) if node.op_type == "Shape" else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _tell_axes(node: NodeProto, stored: dict[str, TensorProto]) -> None:
    """Give a reduction its axes as an attribute."""
    if len(node.input) < 2:
        return
    axes = stored.get(node.input[1])
    if axes is None:
        raise PlanError(f"the axes of {node.op_type} {node.name!r} are not constant")
    _drop(node, "noop_with_empty_axes")
    values = numpy_helper.to_array(axes).astype(int).tolist()
    node.attribute.append(helper.make_attribute("axes", values))
    del node.input[1:]


def _whole_shape(node: NodeProto, graph: onnx.GraphProto) -> list[NodeProto]:
    """Slice the whole shape for a part of it: the parser may not know of parts (opset 15)."""
    settings: dict[str, Any] = {
        entry.name: helper.get_attribute_value(entry) for entry in node.attribute
    }
    if not settings:
        return [node]
    part, whole = node.output[0], f"{node.output[0]}_whole"
    bounds = {
        f"{part}_start": settings.get("start", 0),
        f"{part}_end": settings.get("end", np.iinfo(np.int32).max),
    }
    for name, value in bounds.items():
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return [
        helper.make_node("Shape", [node.input[0]], [whole], name=f"{node.name}_whole"),
        helper.make_node("Slice", [whole, *bounds], [part], name=node.name),
    ]


def _drop_new_attributes(node: NodeProto) -> None:
    try:
        known = onnx.defs.get_schema(node.op_type, OPSET).attributes
    except onnx.defs.SchemaError as error:
        raise PlanError(
            f"the {node.op_type} {node.name!r} is not in opset {OPSET}. Build with TensorRT 10."
        ) from error
    newer = onnx.defs.get_schema(node.op_type, 18).attributes
    for entry in [entry for entry in node.attribute if entry.name not in known]:
        default = helper.get_attribute_value(newer[entry.name].default_value)
        if helper.get_attribute_value(entry) != default:
            raise PlanError(
                f"the {node.op_type} {node.name!r} has {entry.name}, which opset {OPSET} does not "
                "know. Build with TensorRT 10."
            )
        node.attribute.remove(entry)


def _drop(node: NodeProto, attribute: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != attribute]
    del node.attribute[:]
    node.attribute.extend(kept)
