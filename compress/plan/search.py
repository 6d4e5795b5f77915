"""The forms of one graph that a builder may be faster with. Imports neither torch nor pydantic."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import onnx

from compress.plan.build import Options
from compress.plan.forms import LINEARS, PLACEMENTS, with_linears, with_placement


class Candidate(NamedTuple):
    """One form.

    Args:
        name: As people call it.
        graph: What is built.
        options: How.
    """

    name: str
    graph: onnx.ModelProto
    options: Options


def candidates(
    model: onnx.ModelProto, options: Options, *, strongly_typed: bool
) -> Iterator[Candidate]:
    """Yield each form of a graph once.

    Linears as MatMul, Gemm or 1 x 1 convolution, times the placements of rounding that the graph
    has (one that rounds layers alone has no other), times the type of attention's softmax, where
    the graph says the types and the graph has a softmax.

    Args:
        model: The canonical graph.
        options: That all have in common.
        strongly_typed: Whether this TensorRT computes in the types of the graph.
    """
    softmaxes = any(node.op_type == "Softmax" for node in model.graph.node)
    choose = strongly_typed and softmaxes and options.body == "float16"
    seen: list[list[bytes]] = []
    for placement, linear in itertools.product(reversed(PLACEMENTS), LINEARS):
        graph = with_linears(with_placement(model, placement), linear)
        nodes = [node.SerializeToString() for node in graph.graph.node]
        if nodes in seen:
            continue
        seen.append(nodes)
        name = f"{linear}, rounded at {placement}"
        yield Candidate(name, graph, options)
        if choose:
            half = dataclasses.replace(options, half_softmax=True)
            yield Candidate(f"{name}, softmax in float16", graph, half)
