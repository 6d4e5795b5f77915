"""What a stand-in builder sees in an ONNX graph: its tensors, its layers, which weights are 2:4."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_PASSED = ("DequantizeLinear", "QuantizeLinear", "Transpose", "Cast", "Reshape")
TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT64: "INT64",
}


def tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Return name, type and shape of an input or output; -1 where any length will do."""
    kind = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    return {"name": value.name, "dtype": TYPES[kind.elem_type], "shape": shape}


def quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def opset(model: onnx.ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def layers(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return the products of a graph: name, whether they read INT8, whether weights are 2:4."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    constants = {entry.name: entry for entry in model.graph.initializer}
    return [
        {
            "name": node.name or node.output[0],
            "int8": made_by.get(node.input[0], node).op_type == "DequantizeLinear",
            "sparse": _two_in_four(node, made_by, constants),
        }
        for node in model.graph.node
        if node.op_type in _PRODUCTS
    ]


def _two_in_four(node: Any, made_by: dict[str, Any], constants: dict[str, Any]) -> bool:
    name, turned = node.input[1], False
    while name not in constants:
        maker = made_by.get(name)
        if maker is None or maker.op_type not in _PASSED:
            return False
        turned ^= maker.op_type == "Transpose"
        name = maker.input[0]
    weight = numpy_helper.to_array(constants[name])
    flags = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    by_column = node.op_type == "MatMul" or (node.op_type == "Gemm" and not flags.get("transB"))
    if by_column != turned and weight.ndim == 2:
        weight = weight.T
    if weight.ndim < 2 or weight.shape[1] % 4:
        return False
    rows = np.moveaxis(weight, 1, -1).reshape(-1, 4)
    return bool(((rows != 0).sum(1) <= 2).all() and rows.any())
