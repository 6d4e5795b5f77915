"""Whether a graph is rounded as the contract says, and in the formats that its card names.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.errors import PublishError
from contract.card import Precision

_FORMATS: Final[dict[int, str]] = {
    TensorProto.INT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
    TensorProto.FLOAT8E4M3FN: "fp8",
}
_ROUNDING: Final = ("QuantizeLinear", "DequantizeLinear")


def check(model: onnx.ModelProto, precision: Precision, where: Path) -> None:
    """Compare every QuantizeLinear and DequantizeLinear with the contract and with the card.

    Args:
        model: The graph.
        precision: By its card.
        where: The file, for messages.

    Raises:
        PublishError: A scale or a zero point is wrong, or the card names another format.
    """
    stored = {entry.name: entry for entry in model.graph.initializer}
    weights: set[str] = set()
    activations: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in _ROUNDING:
            continue
        for fault in _faults(node, stored):
            raise PublishError(f"{where}: {fault}. Export it again.")
        if node.op_type == "QuantizeLinear":
            activations.add(_format(node, stored))
        elif node.input[0] in stored:
            weights.add(_FORMATS.get(stored[node.input[0]].data_type, "another format"))
    _same("weights", weights, precision.weights, where)
    _same("activations", activations, precision.activations, where)


def _same(what: str, found: set[str], named: str, where: Path) -> None:
    # Layers that decide much may be rounded more finely than the card says of the rest.
    if named in found or (named == "float32" and not found):
        return
    raise PublishError(
        f"{where}: the card says that {what} are {named}, the graph has them in "
        f"{', '.join(sorted(found)) or 'float32'}. Export graph and card together."
    )


def _format(node: NodeProto, stored: dict[str, TensorProto]) -> str:
    if len(node.input) > 2 and node.input[2] in stored:
        return _FORMATS.get(stored[node.input[2]].data_type, "another format")
    return _FORMATS.get(_settings(node).get("output_dtype", TensorProto.UINT8), "another format")


def _faults(node: NodeProto, stored: dict[str, TensorProto]) -> Iterator[str]:
    called = f"the {node.op_type} {node.name or node.output[0]!r}"
    if node.input[1] not in stored:
        yield f"{called} has no constant scale"
        return
    scale = numpy_helper.to_array(stored[node.input[1]]).astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        yield f"{called} has a scale that is no positive number"
    if len(node.input) > 2 and node.input[2] in stored:
        zero = numpy_helper.to_array(stored[node.input[2]]).astype(np.float32)
        if zero.any():
            yield f"{called} has a zero point that is not 0"
    if scale.ndim and node.input[0] in stored:
        dims = tuple(stored[node.input[0]].dims)
        yield from _misfits(called, scale.shape, dims, _settings(node))


def _misfits(
    called: str, scale: tuple[int, ...], dims: tuple[int, ...], settings: dict[str, Any]
) -> Iterator[str]:
    axis = settings.get("axis", 1)
    if not -len(dims) <= axis < len(dims):
        yield f"{called} has axis {axis} for a weight of {len(dims)} axes"
        return
    if block := settings.get("block_size"):
        expected = list(dims)
        expected[axis] //= block
        if list(scale) != expected:
            yield f"{called} has scales {list(scale)}, expected {expected} for blocks of {block}"
    elif scale != (dims[axis],):
        yield f"{called} has {scale[0]} scales, axis {axis} of its weight has {dims[axis]}"


def _settings(node: NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
