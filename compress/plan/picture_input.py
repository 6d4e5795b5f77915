"""What reads the picture. Imports neither torch nor pydantic."""

from __future__ import annotations

import onnx
from onnx import TensorProto


def read_by_cast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in which the uint8 picture is read by its cast to float alone.

    TensorRT takes UINT8 as a network's input and converts it to float; no other layer is known to
    take it. The exporter also asks the picture for its shape, which its cast has too.

    Args:
        model: The canonical graph. Not changed.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    pictures = {
        entry.name
        for entry in changed.graph.input
        if entry.type.tensor_type.elem_type == TensorProto.UINT8
    }
    casts = {
        node.input[0]: node
        for node in changed.graph.node
        if node.op_type == "Cast" and node.input[0] in pictures
    }
    nodes = list(changed.graph.node)
    for cast in casts.values():
        nodes.remove(cast)
    for node in nodes:
        if node.op_type == "Shape" and node.input[0] in casts:
            node.input[0] = casts[node.input[0]].output[0]
    del changed.graph.node[:]
    changed.graph.node.extend([*casts.values(), *nodes])
    return changed
