"""The forms of a graph that TensorRT takes: strongly typed for 10 and 11, opset 17 for 8.5 and 8.6.

A strongly typed engine computes each operator in the type that the ONNX file says, so that a
graph in float32 stays slow. The strongly typed form computes in float16 what bears it, and in
float32 what does not: sums over many values, exponentials, coordinates, indices, the normalisation
of the picture and what an answer is made of. Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.errors import PlanError
from compress.plan import float_weights, layer_norm, opset17

# The first whose QuantizeLinear takes scales in float16.
OPSET_TYPED: Final = 19
# The IR version of opset 17.
_IR_WEAK: Final = 8

_FLOATS: Final = {TensorProto.FLOAT, TensorProto.FLOAT16}
# Sums and powers of many values lose or overflow in float16; the others feed such.
_ISLANDS: Final = frozenset(
    [
        "LayerNormalization",
        "Softmax",
        "LogSoftmax",
        "Pow",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Sin",
        "Cos",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
        "InstanceNormalization",
        "GroupNormalization",
        "GlobalAveragePool",
        "Range",
        "RoiAlign",
        "ConstantOfShape",
        "Constant",
    ]
)
# What such an operator makes of a product is as coarse as the product: nothing upstream is kept.
_PRODUCTS: Final = frozenset(
    ["Conv", "ConvTranspose", "MatMul", "Gemm", "QuantizeLinear", "DequantizeLinear"]
)
# Their results are indices, orders or corners: a little rounding makes another one.
_DISCRETE: Final = frozenset(
    [
        "ArgMax",
        "ArgMin",
        "TopK",
        "Floor",
        "Ceil",
        "Round",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "Equal",
    ]
)
# The input of these that is no value to compute with, and is float32 by definition.
_ALWAYS_FLOAT32: Final = {"Resize": {1, 2}}
_LARGEST: Final = float(np.finfo(np.float16).max)
_SMALLEST_SCALE: Final = float(np.finfo(np.float16).smallest_subnormal)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses; 0 if it uses none."""
    return next((entry.version for entry in model.opset_import if not entry.domain), 0)


def strongly_typed(model: onnx.ModelProto, *, half_softmax: bool = False) -> onnx.ModelProto:
    """Derive the form with a float16 body and float32 islands.

    Inputs, outputs and stored integer weights stay as they are.

    Args:
        model: The canonical graph: explicit Q/DQ, float32, without subgraphs. Not changed.
        half_softmax: Compute softmax between products in float16, as attention kernels that fuse
            all of it may want.

    Raises:
        PlanError: The graph has subgraphs or types of its own, or a scale that float16 cannot hold.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    _check(typed)
    set_opset(typed, max(opset_of(model), OPSET_TYPED))
    _Typing(typed, _ISLANDS - {"Softmax"} if half_softmax else _ISLANDS).apply()
    return checked(typed)


def weakly_typed(model: onnx.ModelProto, *, layer_norms: bool = True) -> onnx.ModelProto:
    """Derive the form of opset 17, which stays in float32: TensorRT 8 chooses types itself.

    Args:
        model: The canonical graph. Not changed.
        layer_norms: Whether the operator LayerNormalization is known; otherwise it is taken apart.

    Raises:
        PlanError: The graph uses an operator that opset 17 does not have in this form.
    """
    weak = onnx.ModelProto()
    weak.CopyFrom(model)
    _check(weak)
    if opset_of(model) > 18:
        raise PlanError(
            f"TensorRT 8 reads opset {opset17.OPSET}, to which only a graph of opset 18 can be "
            f"taken back, this one has {opset_of(model)}, as FP8 and INT4 need. Build with "
            "TensorRT 10."
        )
    opset17.take_back(weak.graph)
    float_weights.unfold(weak.graph)
    if not layer_norms:
        layer_norm.in_parts(weak.graph)
    set_opset(weak, opset17.OPSET)
    weak.ir_version = min(weak.ir_version, _IR_WEAK)
    return checked(weak)


def _check(model: onnx.ModelProto) -> None:
    other = sorted({entry.domain for entry in model.opset_import if entry.domain})
    if other or model.functions:
        raise PlanError(
            f"expected a graph of ONNX's own operators, found {', '.join(other) or 'functions'}. "
            "Export it again."
        )
    for node in model.graph.node:
        if any(entry.type == onnx.AttributeProto.GRAPH for entry in node.attribute):
            raise PlanError(
                f"expected a graph without branches, found the {node.op_type} {node.name!r}. "
                "Export it again."
            )


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what nothing reads, and infer every type anew.

    Raises:
        PlanError: Two operators disagree, or ONNX does not allow one of them in this form.
    """
    graph = model.graph
    del graph.value_info[:]
    read = {name for node in graph.node for name in node.input}
    kept = [entry for entry in graph.initializer if entry.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PlanError(f"this graph cannot be brought into the form of a plan: {error}") from error
    return inferred


def set_opset(model: onnx.ModelProto, version: int) -> None:
    """Write down another version of ONNX's own operators, whose forms have to be the same in it."""
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = version


class _Typing:
    """Decides which operators compute in float32, and puts casts where the type changes."""

    def __init__(self, model: onnx.ModelProto, islands: frozenset[str]) -> None:
        self.islands = islands
        self.opset = opset_of(model)
        self.graph = model.graph
        self.types = _element_types(model)
        self.stored = {entry.name: entry for entry in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {entry.name for entry in model.graph.output}
        # By the name of their first output, which is unique.
        self.exact: set[str] = set()
        self.casts: dict[tuple[str, int], str] = {}
        self.halves: dict[str, str] = {}

    def apply(self) -> None:
        self._trace_back()
        self._trace_on()
        nodes = [made for node in list(self.graph.node) for made in self._rewritten(node)]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _trace_back(self) -> None:
        """Find what outputs and indices are made of, back to the nearest products."""
        waiting = [name for name in self.outputs if self._is_float(name)]
        for node in self.graph.node:
            waiting.extend(self._discrete_inputs(node))
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None or node.output[0] in self.exact or node.op_type in _PRODUCTS:
                continue
            if node.op_type in self.islands:
                # In float32 as it is; what it reads need not be.
                continue
            self.exact.add(node.output[0])
            waiting.extend(name for name in node.input if self._is_float(name))

    def _discrete_inputs(self, node: NodeProto) -> Iterator[str]:
        floats = [name for name in node.input if self._is_float(name)]
        if node.op_type in _DISCRETE or (node.op_type == "Cast" and not self._is_float_node(node)):
            yield from floats
        elif node.op_type == "RoiAlign":
            yield node.input[1]

    def _trace_on(self) -> None:
        """Find what is computed from pictures, indices and coordinates, up to the next products."""
        waiting = [name for node in self.graph.node if self._begins(node) for name in node.output]
        while waiting:
            for node in self.readers[waiting.pop()]:
                product = node.op_type in _PRODUCTS and not self._of_coordinates(node)
                if node.output[0] in self.exact or product or node.op_type in self.islands:
                    continue
                if self._is_float_node(node):
                    self.exact.add(node.output[0])
                    waiting.extend(node.output)

    def _of_coordinates(self, node: NodeProto) -> bool:
        """Whether a product is one of coordinates and choices, as a mean of boxes is."""
        makers = [self.producers.get(name) for name in node.input]
        return node.op_type == "MatMul" and all(
            maker is not None and maker.output[0] in self.exact for maker in makers
        )

    def _begins(self, node: NodeProto) -> bool:
        if node.op_type == "Cast" and self._is_float_node(node):
            self.exact.add(node.output[0])
            return True
        return node.output[0] in self.exact

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) in _FLOATS

    def _is_float_node(self, node: NodeProto) -> bool:
        return any(self._is_float(name) for name in node.output)

    def _computes_in(self, node: NodeProto) -> int:
        full = (
            node.output[0] in self.exact
            or node.op_type in self.islands | _DISCRETE
            or (node.op_type == "Cast" and not self._is_float_node(node))
            or not _takes_half(node.op_type, self.opset)
        )
        return TensorProto.FLOAT if full else TensorProto.FLOAT16

    def _rewritten(self, node: NodeProto) -> Iterable[NodeProto]:
        """Return the operator with its casts: of its inputs before it, of an output after it."""
        made_in = self._computes_in(node)
        before = list(self._cast_inputs(node, made_in))
        after = []
        for index, name in enumerate(node.output):
            if not self._is_float(name):
                continue
            self.types[name] = made_in
            if made_in == TensorProto.FLOAT16 and name in self.outputs:
                node.output[index] = f"{name}_float16"
                self.types[node.output[index]] = made_in
                after.append(_cast(node.output[index], name, TensorProto.FLOAT))
                self.types[name] = TensorProto.FLOAT
        return (*before, node, *after)

    def _cast_inputs(self, node: NodeProto, made_in: int) -> Iterator[NodeProto]:
        scale = node.input[1] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        for index, name in enumerate(node.input):
            wanted = made_in
            if index in _ALWAYS_FLOAT32.get(node.op_type, ()):
                wanted = TensorProto.FLOAT
            if not self._is_float(name) or self.types[name] == wanted:
                continue
            if name in self.stored:
                node.input[index] = self._half(name, is_scale=name == scale)
            elif (name, wanted) in self.casts:
                node.input[index] = self.casts[name, wanted]
            else:
                kind = "float16" if wanted == TensorProto.FLOAT16 else "float32"
                made = self.casts[name, wanted] = f"{name}_as_{kind}"
                node.input[index] = made
                yield _cast(name, made, wanted)

    def _half(self, name: str, *, is_scale: bool) -> str:
        """Store a constant in float16 once, and return its name."""
        if name not in self.halves:
            values = numpy_helper.to_array(self.stored[name])
            if is_scale:
                values = _checked_scale(name, values)
            # What masks with minus infinity masks as well with the smallest number.
            half = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
            self.halves[name] = f"{name}_float16"
            self.graph.initializer.append(numpy_helper.from_array(half, self.halves[name]))
        return self.halves[name]


def _checked_scale(name: str, scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.all(scale < _LARGEST / 128):
        raise PlanError(
            f"the scale {name} is {float(scale.max()):g}, so that float16 cannot hold the values "
            f"that it stands for, which reach {_LARGEST:g}. Calibrate again, or build with "
            "TensorRT 8.6, whose form stays in float32."
        )
    # A scale of zero would divide by it.
    raised: npt.NDArray[np.float32] = np.maximum(scale, np.float32(_SMALLEST_SCALE))
    return raised


def _cast(name: str, made: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [made], name=f"cast_{made}", to=kind)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {
        entry.name: entry.type.tensor_type.elem_type
        for entry in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    types.update({entry.name: entry.data_type for entry in inferred.initializer})
    unknown = [name for node in inferred.node for name in node.output if name not in types]
    if unknown:
        raise PlanError(f"the type of {unknown[0]!r} cannot be inferred. Export the graph again.")
    if TensorProto.FLOAT16 in types.values():
        raise PlanError("expected the canonical graph, in float32; this one has float16 already.")
    return types


def _takes_half(operator: str, opset: int) -> bool:
    schema = onnx.defs.get_schema(operator, opset)
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }
    kinds = [allowed.get(formal.type_str, [formal.type_str]) for formal in schema.outputs]
    return any("tensor(float16)" in types for types in kinds)
