"""The same network in other number formats, derived from the one graph of a bundle.

What a compressed network is worth shows beside its twins: in float, in FP8, with INT4 weights.
They have its weights and its operators, so that they differ in nothing but the format.
Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.errors import PlanError
from compress.plan.sweep import swept
from compress.plan.typed import checked, opset_of, set_opset

OPSET_FP8: Final = 19
OPSET_INT4: Final = 21
# The oldest that has the operators and the types of each.
_IR_VERSIONS: Final = {OPSET_FP8: 9, OPSET_INT4: 10}
_LARGEST_INT8: Final = 127.0
_LARGEST_INT4: Final = 7.0
# The largest value of E4M3 without infinities (Micikevicius et al., arXiv:2209.05433).
_LARGEST_FP8: Final = 448.0
# Block sizes of TensorRT's INT4, the better one first: fewer scales are read.
# Source: TensorRT documentation, "Quantization Schemes".
_BLOCKS: Final = (128, 64)
# Tensor cores read as many channels at once; a picture has three.
_FEWEST_CHANNELS: Final = 16
_SMALLEST_SCALE: Final = float(np.finfo(np.float32).tiny)
# Their form changes between opset 18 and 21.
_CHANGING: Final = {"GroupNormalization", "GridSample"}

_Floats = npt.NDArray[np.float32]


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Derive the network without rounding: weights as they are dequantised, no Q/DQ.

    Args:
        model: A canonical graph. Not changed.

    Raises:
        PlanError: A DequantizeLinear reads neither a constant nor a QuantizeLinear.
    """
    graph = _Graph(model)
    for node in graph.nodes("DequantizeLinear"):
        graph.pass_by(node)
    return graph.finished()


def fp8_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Derive the network in FP8 E4M3 with the ranges that INT8 was calibrated to.

    What INT8's largest step stands for, FP8's largest value stands for. Convolutions of fewer than
    16 channels stay float: FP8 kernels read no fewer.

    Args:
        model: A canonical graph with Q/DQ in INT8. Not changed.

    Raises:
        PlanError: It has none, or Q/DQ of another format.
    """
    graph = _Graph(model)
    for node in graph.nodes("DequantizeLinear"):
        if graph.feeds_few_channels(node):
            graph.pass_by(node)
    pairs = graph.nodes("DequantizeLinear")
    if not pairs:
        raise PlanError(
            "an FP8 network is derived from one with Q/DQ in INT8, this one has none. Give a "
            "network that was compressed to INT8."
        )
    read = {node.input[0] for node in pairs}
    for node in (*pairs, *graph.nodes("QuantizeLinear")):
        if node.op_type == "DequantizeLinear" or node.output[0] in read:
            graph.to_fp8(node)
    return graph.finished(OPSET_FP8)


def int4_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Derive the network with weights in INT4 and nothing else rounded.

    Each block of 128 or 64 weights along the reduction axis has a scale. Products whose reduction
    axis is no multiple of 64, and convolutions, stay float: TensorRT has no INT4 for them.

    Args:
        model: A canonical graph, quantised or not. Not changed.

    Raises:
        PlanError: No layer can have INT4 weights.
    """
    graph = _Graph(float_twin(model))
    reductions = graph.reduction_axes()
    made = [graph.to_int4(name, axis) for name, axis in reductions.items() if axis is not None]
    if not any(made):
        raise PlanError(
            f"no weight of this network has a reduction axis that is a multiple of {_BLOCKS[-1]}, "
            "as the blocks of TensorRT's INT4 are. Compress it to INT8."
        )
    return graph.finished(OPSET_INT4)


class _Graph:
    """A copy of a graph that is being changed, with what makes and what reads each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.stored = {entry.name: entry for entry in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def nodes(self, operator: str) -> list[NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == operator]

    def finished(self, opset: int = 0) -> onnx.ModelProto:
        """Drop what nothing reads any more, and check the rest."""
        nodes = self.model.graph.node
        if opset > opset_of(self.model):
            changing = sorted({node.op_type for node in nodes} & _CHANGING)
            if changing:
                raise PlanError(
                    f"{changing[0]} is another operator in opset {opset}, which this format needs. "
                    "Give a network without it."
                )
            set_opset(self.model, opset)
            self.model.ir_version = max(self.model.ir_version, _IR_VERSIONS[opset])
        return checked(swept(self.model))

    def pass_by(self, node: NodeProto) -> None:
        """Take a DequantizeLinear out: its readers get what was rounded, unrounded."""
        source, output = node.input[0], node.output[0]
        if source in self.stored:
            unrounded = source if len(self.readers[source]) == 1 else f"{source}.{output}"
            self._store(unrounded, _dequantized(node, self.stored))
        elif source in self.makers and self.makers[source].op_type == "QuantizeLinear":
            unrounded = self.makers[source].input[0]
        else:
            raise PlanError(
                f"expected every DequantizeLinear to read a constant or a QuantizeLinear, "
                f"{node.name or output} reads {source}. Export the graph again."
            )
        self.model.graph.node.remove(node)
        self._redirect(self.readers.pop(output, []), output, unrounded)

    def feeds_few_channels(self, node: NodeProto) -> bool:
        """Say whether all that reads a DequantizeLinear is convolutions of few channels."""
        readers = self.readers[node.output[0]]
        return bool(readers) and all(map(self._has_few_channels, readers))

    def _has_few_channels(self, node: NodeProto) -> bool:
        if node.op_type != "Conv":
            return False
        maker = self.makers.get(node.input[1])
        weight = self.stored.get(maker.input[0] if maker else node.input[1])
        return weight is not None and weight.dims[1] < _FEWEST_CHANNELS

    def to_fp8(self, node: NodeProto) -> None:
        """Make a QuantizeLinear or DequantizeLinear of INT8 one of FP8."""
        scale, zero = self.stored.get(node.input[1]), self._zero_point(node)
        if scale is None or zero is None or zero.data_type != TensorProto.INT8:
            raise PlanError(
                f"expected Q/DQ in INT8 with a constant scale, found {node.name or node.output[0]} "
                "of another format. Give a network that was compressed to INT8."
            )
        wider = numpy_helper.to_array(scale) * np.float32(_LARGEST_INT8 / _LARGEST_FP8)
        node.input[1] = self._store(f"{scale.name}.fp8", wider)
        zeros = np.zeros(wider.shape, helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
        node.input[2] = self._store(f"zero.fp8.{wider.size if wider.ndim else 'one'}", zeros)
        if node.input[0] in self.stored:
            steps = numpy_helper.to_array(self.stored[node.input[0]]).astype(np.float32)
            if self.stored[node.input[0]].data_type == TensorProto.INT8:
                grown = np.clip(steps * (_LARGEST_FP8 / _LARGEST_INT8), -_LARGEST_FP8, _LARGEST_FP8)
                self._store(node.input[0], grown.astype(zeros.dtype))

    def _zero_point(self, node: NodeProto) -> TensorProto | None:
        return self.stored.get(node.input[2]) if len(node.input) > 2 else None

    def reduction_axes(self) -> dict[str, int | None]:
        """Return the reduction axis of every constant 2-D operand of a product.

        None where two products read it differently, or something else reads it.
        """
        found: dict[str, int | None] = {}
        for node in (*self.nodes("MatMul"), *self.nodes("Gemm")):
            name, turned = node.input[1], bool(node.op_type == "Gemm" and _integer(node, "transB"))
            maker = self.makers.get(name)
            if maker is not None and maker.op_type == "Transpose":
                name, turned = maker.input[0], not turned
            if name not in self.stored or len(self.stored[name].dims) != 2:
                continue
            axis = int(turned)
            found[name] = axis if found.get(name, axis) == axis else None
        for name in found:
            kinds = {node.op_type for node in self.readers[name]}
            if not kinds <= {"MatMul", "Gemm", "Transpose"}:
                found[name] = None
        return found

    def to_int4(self, name: str, axis: int) -> bool:
        """Round a float weight to INT4 in blocks along an axis, if its size allows it."""
        weight: _Floats = numpy_helper.to_array(self.stored[name]).astype(np.float32)
        block = next((size for size in _BLOCKS if weight.shape[axis] % size == 0), 0)
        if not block:
            return False
        steps, scale = _in_blocks(weight, axis, block)
        kind = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
        readers = self.readers.pop(name)
        inputs = [
            self._store(f"{name}.int4", steps.astype(kind)),
            self._store(f"{name}.int4.scale", scale),
        ]
        node = helper.make_node(
            "DequantizeLinear", inputs, [f"{name}.dequantized"], axis=axis, block_size=block
        )
        # It reads constants alone.
        self.model.graph.node.insert(0, node)
        self._redirect(readers, name, node.output[0])
        return True

    def _store(self, name: str, values: npt.NDArray[Any]) -> str:
        entry = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        if name not in self.stored:
            self.stored[name] = self.model.graph.initializer.add()
        self.stored[name].CopyFrom(entry)
        return name

    def _redirect(self, readers: list[NodeProto], old: str, new: str) -> None:
        for reader in readers:
            for index, name in enumerate(reader.input):
                if name == old:
                    reader.input[index] = new
        self.readers[new].extend(readers)
        if any(entry.name == old for entry in self.model.graph.output):
            self.model.graph.node.append(helper.make_node("Identity", [new], [old]))


def _dequantized(node: NodeProto, stored: dict[str, TensorProto]) -> _Floats:
    """Compute what a DequantizeLinear makes of its constant input."""
    read = [numpy_helper.to_array(stored[name]).astype(np.float32) for name in node.input if name]
    steps, scale = read[:2]
    zero = read[2] if len(read) > 2 else np.zeros((), np.float32)
    axis, block = _integer(node, "axis", 1), _integer(node, "block_size")
    unscaled = steps - _spread(zero, steps.shape, axis, block)
    values: _Floats = (unscaled * _spread(scale, steps.shape, axis, block)).astype(np.float32)
    return values


def _spread(values: _Floats, shape: tuple[int, ...], axis: int, block: int) -> _Floats:
    """Give each weight of ``shape`` its own scale, or an axis to broadcast over."""
    if block and values.ndim:
        return np.repeat(values, block, axis=axis)
    if values.ndim == 1:
        return values.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])
    return values


def _in_blocks(weight: _Floats, axis: int, block: int) -> tuple[_Floats, _Floats]:
    """Return steps of INT4 and the scale of each block."""
    blocks = np.moveaxis(weight, axis, -1).reshape(weight.shape[1 - axis], -1, block)
    scale = np.maximum(np.abs(blocks).max(axis=-1) / _LARGEST_INT4, _SMALLEST_SCALE)
    steps = np.rint(blocks / scale[..., None]).reshape(weight.shape[1 - axis], -1)
    return np.moveaxis(steps, -1, axis), np.moveaxis(scale, -1, axis).astype(np.float32)


def _integer(node: NodeProto, name: str, default: int = 0) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), default)
