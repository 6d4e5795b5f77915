"""Whether the weights of a graph are as sparse as its card says, read off the graph itself.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import numpy.typing as npt
import onnx
from onnx import numpy_helper

from compress.errors import SparsityError

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


def check(
    model: onnx.ModelProto, pattern: str, where: object, pruned: Collection[str] = ()
) -> list[str]:
    """Return the names of the weights that follow a pattern.

    Args:
        model: With its weights.
        pattern: "2:4", or "4:8" in adjacent pairs; "dense" asks for nothing.
        where: The file, for errors.
        pruned: Weights that have to follow it, by what their names in the graph end in.

    Raises:
        SparsityError: A weight of half zeros, or one of ``pruned``, does not follow the pattern
            along its reduction axis; one of ``pruned`` is not there; or no weight follows it.
    """
    if pattern == "dense":
        return []
    found = []
    for weight in weights(model.graph):
        broken = _broken(weight.values, pattern)
        if not broken:
            found.append(weight.name)
        elif _zeros(weight) >= _PRUNED or weight.name.endswith(tuple(pruned)):
            across = "; it does along the other axis" * (not _broken(weight.values.T, pattern))
            raise SparsityError(
                f"{where}: the card says {pattern}, but in {broken} groups along the reduction "
                f"axis of {weight.name} more weights are not zero{across}. Export the network "
                "again with its masks applied."
            )
    for name in pruned:
        if (times := sum(one.endswith(name) for one in found)) != 1:
            raise SparsityError(
                f"{where}: expected the pruned weight {name} once among what products read, found "
                f"it {times} times. Export the network again under the names it was trained by."
            )
    if not found:
        raise SparsityError(
            f"{where}: the card says {pattern}, but no weight follows it along its reduction axis. "
            "Export the network again with its masks applied, or say 'dense' in the card."
        )
    return found


def _broken(values: npt.NDArray[Any], pattern: str) -> str:
    """Say how many groups hold too much; all where the axis is no multiple of them, "" for none."""
    group, width, kept = _PATTERNS[pattern]
    out, inner = values.shape
    if inner % group:
        return "all"
    stays = (values.reshape(out, -1, group // width, width) != 0).any(axis=-1)
    broken = stays.sum(axis=-1) > kept
    return f"{broken.sum()} of {broken.size}" if broken.any() else ""


def _zeros(weight: Weight) -> float:
    return float((weight.values == 0).mean())


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
