"""What rewriting leaves behind is taken out of a graph. Imports neither torch nor pydantic."""

from __future__ import annotations

import onnx


def swept(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop, in place, the operators and constants that nothing reads, and return the graph."""
    graph = model.graph
    wanted = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    stored = [entry for entry in graph.initializer if entry.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    names = {name for node in graph.node for name in node.output}
    told = [entry for entry in graph.value_info if entry.name in names]
    del graph.value_info[:]
    graph.value_info.extend(told)
    return model
