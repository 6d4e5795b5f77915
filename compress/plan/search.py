"""The forms of one graph that a builder may be faster with. Imports neither torch nor pydantic."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from compress.plan.forms import LINEARS, PLACEMENTS, with_linears, with_placement


def candidates(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield each form of a graph once, by what it is called; the first is the graph itself.

    Linears as MatMul, Gemm or 1 x 1 convolution, times the placements of rounding that the graph
    has: one that rounds layers alone has no other.
    """
    seen: list[list[bytes]] = []
    for placement in reversed(PLACEMENTS):
        placed = with_placement(model, placement)
        nodes = [node.SerializeToString() for node in placed.graph.node]
        if nodes in seen:
            continue
        seen.append(nodes)
        for linear in LINEARS:
            yield f"{linear}, rounded at {placement}", with_linears(placed, linear)
