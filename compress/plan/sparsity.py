"""Whether the weights of a graph are as sparse as its card says, read off the graph itself.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy.typing as npt
import onnx
from onnx import numpy_helper

from compress.errors import PublishError

# Along the reduction axis: neighbours of a group, neighbours that stay or go together, and how
# many of those may stay.
_PATTERNS: Final = {"2:4": (4, 1, 2), "4:8": (8, 2, 2)}
# Rounding makes zeros too, but never so many: whoever has this share of them was pruned.
_PRUNED: Final = 0.49


class Weight(NamedTuple):
    """The constant operand of a product.

    Args:
        name: Of the initialiser.
        values: [out, reduction axis], as stored: rounded where the graph is quantised.
    """

    name: str
    values: npt.NDArray[Any]


def weights(graph: onnx.GraphProto) -> Iterator[Weight]:
    """Yield what MatMul, Gemm and Conv multiply their input by, each initialiser once.

    The axes of a convolution's weight behind the first are one reduction axis, as in compress.
    """
    stored = {entry.name: entry for entry in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    seen = set()
    for node in graph.node:
        if node.op_type not in {"MatMul", "Gemm", "Conv"}:
            continue
        name, turned = _source(node.input[1], made)
        if name not in stored or name in seen or len(stored[name].dims) < 2:
            continue
        seen.add(name)
        values = numpy_helper.to_array(stored[name])
        if node.op_type == "Conv":
            yield Weight(name, values.reshape(len(values), -1))
        elif values.ndim == 2:
            # [in, out] is what a product reads unless it is told otherwise.
            out_first = turned != bool(node.op_type == "Gemm" and _attribute(node, "transB"))
            yield Weight(name, values if out_first else values.T)


def check(model: onnx.ModelProto, pattern: str, where: object) -> list[str]:
    """Return the names of the weights that follow a pattern.

    Args:
        model: With its weights.
        pattern: "2:4", or "4:8" in adjacent pairs; "dense" asks for nothing.
        where: The file, for errors.

    Raises:
        PublishError: A weight of half zeros does not follow the pattern along its reduction axis,
            or no weight follows it.
    """
    if pattern == "dense":
        return []
    found = []
    for weight in weights(model.graph):
        broken = _broken(weight.values, pattern)
        if broken == 0:
            found.append(weight.name)
        elif float((weight.values == 0).mean()) >= _PRUNED:
            across = "; it does along the other axis" * (not _broken(weight.values.T, pattern))
            raise PublishError(
                f"{where}: the card says {pattern}, but in {broken:.2%} of the groups along the "
                f"reduction axis of {weight.name} more weights are not zero{across}. Export the "
                "network again with its masks applied."
            )
    if not found:
        raise PublishError(
            f"{where}: the card says {pattern}, but no weight follows it along its reduction axis. "
            "Export the network again with its masks applied, or say 'dense' in the card."
        )
    return found


def _broken(values: npt.NDArray[Any], pattern: str) -> float:
    """Return the share of groups that hold too much; 1 where the axis is no multiple of them."""
    group, width, kept = _PATTERNS[pattern]
    out, inner = values.shape
    if inner % group:
        return 1.0
    stays = (values.reshape(out, -1, group // width, width) != 0).any(axis=-1)
    return float((stays.sum(axis=-1) > kept).mean())


def _source(name: str, made: dict[str, onnx.NodeProto]) -> tuple[str, bool]:
    """Look through what is done to a constant; say whether it was transposed on the way."""
    turned = False
    while (node := made.get(name)) is not None and node.op_type in {
        "QuantizeLinear",
        "DequantizeLinear",
        "Cast",
        "Identity",
        "Transpose",
    }:
        turned ^= node.op_type == "Transpose"
        name = node.input[0]
    return name, turned


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), 0)
