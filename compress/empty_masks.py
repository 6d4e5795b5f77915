"""Attention masks that mask nothing are taken out of an exported graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from compress.plan.sweep import swept


def drop(model: onnx.ModelProto) -> None:
    """Remove each addition of a mask that is zero everywhere, in place.

    transformers makes one for a network that sees whole pictures. Nothing folds it, since its shape
    depends on the batch, and fused attention kernels do not look for it.
    """
    graph = model.graph
    stored = {entry.name: entry for entry in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    outputs = {entry.name for entry in graph.output}
    shapes = _shapes(model)
    for node in graph.node:
        if node.op_type != "Add" or node.output[0] in outputs:
            continue
        empty = [name for name in node.input if _masks_nothing(name, made, stored)]
        if len(empty) != 1:
            continue
        (kept,) = [name for name in node.input if name != empty[0]]
        # A mask may also repeat what it is added to.
        if shapes.get(kept) == shapes.get(node.output[0]):
            _redirect(graph, node.output[0], kept)
    swept(model)


def _masks_nothing(name: str, made: dict[str, NodeProto], stored: dict[str, TensorProto]) -> bool:
    node = made.get(name)
    if node is None or node.op_type != "Where":
        return False
    condition, kept = node.input[0], node.input[1]
    while (before := made.get(condition)) is not None and before.op_type == "Expand":
        condition = before.input[0]
    if condition not in stored or kept not in stored:
        return False
    everywhere = numpy_helper.to_array(stored[condition]).all()
    return bool(everywhere and not np.any(numpy_helper.to_array(stored[kept])))


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        entry.name: [
            axis.dim_value if axis.HasField("dim_value") else axis.dim_param
            for axis in entry.type.tensor_type.shape.dim
        ]
        for entry in (*inferred.value_info, *inferred.input)
    }


def _redirect(graph: onnx.GraphProto, old: str, new: str) -> None:
    for reader in graph.node:
        for index, name in enumerate(reader.input):
            if name == old:
                reader.input[index] = new
