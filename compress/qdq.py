"""QuantizeLinear and DequantizeLinear of every number format: emitted, and weights stored by them.

INT8 keeps to opset 18; FP8 is a type of opset 19, INT4 and blocks are of opset 21.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from compress.formats import FP8, INT4, INT8, UINT4, NumberFormat

# TensorRT 8.6 knows no later Gelu and documents opset 17; ONNX Runtime has a fault at 21.
_OPSETS = {INT8.name: 18, FP8.name: 19}
_OPSET = 18
_OPSET_INT4 = 21
_FORMATS = {form.onnx_type: form for form in (INT8, INT4, UINT4, FP8)}
_ZEROS = {INT8.name: torch.int8, FP8.name: torch.float8_e4m3fn}


def opset(formats: Iterable[NumberFormat]) -> int:
    """Return the oldest opset that holds all of the formats; 18 for none."""
    return max((_OPSETS.get(form.name, _OPSET_INT4) for form in formats), default=_OPSET)


def emit(
    values: Tensor, scale: Tensor, form: NumberFormat, block_size: int | None = None
) -> Tensor:
    """Put a QuantizeLinear and its DequantizeLinear into the graph that is being exported.

    Args:
        values: An activation, or a weight [out, ...].
        scale: [] for the tensor, [out] for output channels, [out, blocks] for blocks.
        form: Of the values between the two operators.
        block_size: Along axis 1, where ``scale`` is [out, blocks].
    """
    both: dict[str, Any] = {}
    if scale.ndim:
        both["axis"] = scale.ndim - 1
    if block_size:
        both["block_size"] = block_size
    version = opset([form])
    inputs: tuple[Tensor, ...] = (scale,)
    first = dict(both)
    dtype = _ZEROS.get(form.name, torch.int8)
    if form.name in _ZEROS:
        inputs = (scale, torch.zeros(scale.shape, dtype=dtype))
    else:
        # torch has no four-bit tensor to hand over as zero point; this says the same.
        first["output_dtype"] = form.onnx_type
    quantized = torch.onnx.ops.symbolic(
        "QuantizeLinear",
        (values, *inputs),
        first,
        dtype=dtype,
        shape=values.shape,
        version=version,
    )
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (quantized, *inputs),
        both,
        dtype=torch.float32,
        shape=values.shape,
        version=version,
    )


def store_weights(model: onnx.ModelProto) -> None:
    """Replace each constant float weight and its QuantizeLinear by the rounded weight itself."""
    stored = {entry.name: entry for entry in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        weight = stored.get(node.input[0])
        if weight is None:
            _tell_type(model, node)
            continue
        weight.CopyFrom(numpy_helper.from_array(_steps(node, stored), weight.name))
        for reader in model.graph.node:
            for index, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[index] = weight.name
        model.graph.node.remove(node)
    for entry in [entry for entry in model.graph.value_info if entry.name in stored]:
        model.graph.value_info.remove(entry)


def add_biases(model: onnx.ModelProto) -> None:
    """Give every rounded convolution without a bias the smallest one there is.

    OpenVINO 2026.4 makes nothing but zeros of what follows a convolution in INT8 that has no bias,
    or one of zeros, where the batch is dynamic and its output is read by a QuantizeLinear and by
    something else. Untrained networks have such biases, and the exporter leaves them out. No sum
    in float32 changes by it.
    """
    stored = {entry.name: entry for entry in model.graph.initializer}
    weights = {
        node.output[0]: stored[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) > 2 or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        name = f"{weight.name}.no_bias"
        node.input.append(name)
        # Of a convolution that runs several times there is one.
        if name not in stored:
            bias = np.full(weight.dims[0], np.finfo(np.float32).tiny, np.float32)
            stored[name] = numpy_helper.from_array(bias, name)
            model.graph.initializer.append(stored[name])


def _steps(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> npt.NDArray[np.generic]:
    """Do what a QuantizeLinear would do with its constant input."""
    values, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
    attributes = _attributes(node)
    if block_size := attributes.get("block_size"):
        scale = np.repeat(scale, block_size, axis=1)
    form = _FORMATS[_type(node, stored)]
    shape = scale.shape + (1,) * (values.ndim - scale.ndim)
    steps = np.clip(values / scale.reshape(shape), form.low, form.high)
    # The operator's own rule: nearest, ties to even, then saturate.
    rounded = np.rint(steps) if form.integer else steps
    stored_as: npt.NDArray[np.generic] = rounded.astype(
        helper.tensor_dtype_to_np_dtype(form.onnx_type)
    )
    return stored_as


def _type(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> int:
    if len(node.input) > 2:
        return stored[node.input[2]].data_type
    return int(_attributes(node)["output_dtype"])


def _tell_type(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Correct the type that the exporter, knowing none of four bits, put down."""
    if kind := _attributes(node).get("output_dtype"):
        for entry in model.graph.value_info:
            if entry.name == node.output[0]:
                entry.type.tensor_type.elem_type = kind


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
