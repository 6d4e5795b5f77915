"""Other graphs that compute the same: what a plan builder may be faster with.

Which form of a Linear has sparse kernels, and whether rounding between products pays, differs from
GPU to GPU and version to version, so that both are measured (:mod:`compress.plan.search`). Imports
neither torch nor pydantic.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.errors import PlanError
from compress.plan.sweep import swept

Linear = Literal["matmul", "gemm", "conv"]
Placement = Literal["gemm", "gemm+add", "gemm+add+bmm"]
LINEARS: Final[tuple[Linear, ...]] = ("matmul", "gemm", "conv")
PLACEMENTS: Final[tuple[Placement, ...]] = ("gemm", "gemm+add", "gemm+add+bmm")
_PRODUCTS: Final = frozenset(["MatMul", "Gemm", "Conv"])
# Of these, whoever reads the result says what it is for.
_SHAPES: Final = frozenset(["Reshape", "Transpose", "Squeeze", "Unsqueeze"])


def with_placement(model: onnx.ModelProto, placement: Placement) -> onnx.ModelProto:
    """Return the graph that rounds activations at fewer places.

    Args:
        model: Of a placement that rounds at least there. Not changed.
        placement: "gemm" rounds what layers with weights read, "gemm+add" also what residual
            additions read, "gemm+add+bmm" leaves everything rounded that is.
    """
    changed = _copy(model)
    graph = _Graph(changed)
    for node in [node for node in changed.graph.node if node.op_type == "DequantizeLinear"]:
        quantize = graph.made.get(node.input[0])
        if quantize is None:
            continue
        for reader in graph.readers[node.output[0]]:
            for index, name in enumerate(reader.input):
                if name == node.output[0] and _level(graph, reader) > PLACEMENTS.index(placement):
                    reader.input[index] = quantize.input[0]
    return swept(changed)


def with_linears(model: onnx.ModelProto, form: Linear) -> onnx.ModelProto:
    """Return the graph whose Linears are of another form.

    A product of [.., n, k] with a constant [k, m] becomes one of [rows, k], or a convolution of
    1 x 1 over as many pictures of one pixel. What has no constant weight, or rows of unknown
    number but for the first axis, stays as it is.

    Args:
        model: With Linears as MatMul, as the exporter writes them. Not changed.
        form: "matmul" changes nothing.
    """
    changed = _copy(model)
    if form == "matmul":
        return changed
    graph = _Graph(changed)
    shapes = _shapes(changed)
    nodes: list[NodeProto] = []
    taken: set[str] = set()
    for node in changed.graph.node:
        if node.output[0] in taken:
            continue
        linear = _Linear.of(graph, node, shapes)
        if linear is None:
            nodes.append(node)
            continue
        nodes += linear.rewritten(graph, form)
        taken.update(linear.taken)
    del changed.graph.node[:]
    changed.graph.node.extend(_ordered(nodes, changed))
    return swept(changed)


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.stored = {entry.name: entry for entry in model.graph.initializer}
        self.made = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.outputs = {entry.name for entry in model.graph.output}
        # What was made once for several Linears: rows of an activation, by its name.
        self.rows: dict[str, str] = {}

    def store(self, name: str, values: np.ndarray) -> str:
        if name not in self.stored:
            self.stored[name] = numpy_helper.from_array(values, name)
            self.graph.initializer.append(self.stored[name])
        return name

    def constant(self, name: str) -> bool:
        """Whether a tensor is made of constants alone."""
        while (node := self.made.get(name)) is not None and node.op_type in {
            "DequantizeLinear",
            "Transpose",
        }:
            name = node.input[0]
        return name in self.stored


def _level(graph: _Graph, reader: NodeProto) -> int:
    """Return at which placement an operator is the first time given something rounded."""
    if reader.op_type in _SHAPES:
        return max((_level(graph, after) for after in graph.readers[reader.output[0]]), default=1)
    if reader.op_type not in _PRODUCTS:
        return 1
    return 0 if graph.constant(reader.input[1]) else 2


class _Linear:
    """A MatMul with a constant weight, and the addition of its bias."""

    def __init__(self, node: NodeProto, weight: TensorProto, dequantize: NodeProto | None) -> None:
        self.node = node
        self.weight = weight
        # None where the weight is float, and lies as [in, out].
        self.dequantize = dequantize
        self.bias: str | None = None
        self.inner: tuple[int, ...] = ()
        self.result = node.output[0]
        self.taken = {node.output[0]}

    @classmethod
    def of(
        cls, graph: _Graph, node: NodeProto, shapes: dict[str, tuple[int | None, ...]]
    ) -> _Linear | None:
        if node.op_type != "MatMul":
            return None
        linear = cls._with_weight(graph, node)
        shape = shapes.get(node.output[0], ())
        # One axis of unknown length can be told from the others.
        if linear is None or len(shape) < 2 or None in shape[1:]:
            return None
        linear.inner = tuple(axis for axis in shape[1:] if axis is not None)
        linear.find_bias(graph)
        return linear

    @classmethod
    def _with_weight(cls, graph: _Graph, node: NodeProto) -> _Linear | None:
        name = node.input[1]
        if name in graph.stored and len(graph.stored[name].dims) == 2:
            return cls(node, graph.stored[name], None)
        transpose = graph.made.get(name)
        if transpose is None or transpose.op_type != "Transpose":
            return None
        dequantize = graph.made.get(transpose.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        weight = graph.stored.get(dequantize.input[0])
        blocks = any(entry.name == "block_size" for entry in dequantize.attribute)
        if weight is None or len(weight.dims) != 2 or blocks:
            return None
        return cls(node, weight, dequantize)

    def find_bias(self, graph: _Graph) -> None:
        """Take the addition behind the product for its bias, where it is one."""
        readers = graph.readers[self.result]
        if len(readers) != 1 or readers[0].op_type != "Add" or self.result in graph.outputs:
            return
        (other,) = [name for name in readers[0].input if name != self.result] or [""]
        if other in graph.stored and list(graph.stored[other].dims) == [self.inner[-1]]:
            self.bias = other
            self.result = readers[0].output[0]
            self.taken.add(self.result)

    def rewritten(self, graph: _Graph, form: Linear) -> list[NodeProto]:
        name = self.node.output[0]
        rows, nodes = self._rows(graph, form)
        made = f"{name}_{form}"
        inputs = [rows, self._weight(graph, form, nodes), *([self.bias] if self.bias else [])]
        if form == "gemm":
            turned = int(self.dequantize is not None)
            nodes.append(helper.make_node("Gemm", inputs, [made], name=made, transB=turned))
        else:
            nodes.append(helper.make_node("Conv", inputs, [made], name=made, kernel_shape=[1, 1]))
        shape = graph.store(
            f"shape_{'_'.join(map(str, self.inner))}", np.array([-1, *self.inner], np.int64)
        )
        nodes.append(helper.make_node("Reshape", [made, shape], [self.result], name=f"{made}_back"))
        return nodes

    def _rows(self, graph: _Graph, form: Linear) -> tuple[str, list[NodeProto]]:
        """Lay what the product reads out in rows, before it is rounded; once for all readers."""
        source = self.node.input[0]
        key = f"{source}_{form}_rows"
        if key in graph.rows:
            return graph.rows[key], []
        inner = self.weight.dims[1 if self.dequantize is not None else 0]
        rest = [1, 1] * (form == "conv")
        shape = graph.store(f"rows_{inner}_{form}", np.array([-1, inner, *rest], np.int64))
        rounding: list[NodeProto] = []
        dequantize = graph.made.get(source)
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            quantize = graph.made.get(dequantize.input[0])
            if quantize is not None and quantize.op_type == "QuantizeLinear":
                rounding = [quantize, dequantize]
        before = rounding[0].input[0] if rounding else source
        nodes = [helper.make_node("Reshape", [before, shape], [key], name=key)]
        for node in rounding:
            again = onnx.NodeProto()
            again.CopyFrom(node)
            again.name = again.output[0] = f"{key}_{node.op_type}"
            again.input[0] = nodes[-1].output[0]
            nodes.append(again)
        made: str = nodes[-1].output[0]
        graph.rows[key] = made
        return made, nodes

    def _weight(self, graph: _Graph, form: Linear, nodes: list[NodeProto]) -> str:
        if form == "gemm":
            stored: str = (self.dequantize.output if self.dequantize else self.node.input[1:])[0]
            return stored
        values = numpy_helper.to_array(self.weight)
        out_first = values.T if self.dequantize is None else values
        name = graph.store(f"{self.weight.name}_1x1", out_first.reshape(*out_first.shape, 1, 1))
        if self.dequantize is None:
            return name
        again = onnx.NodeProto()
        again.CopyFrom(self.dequantize)
        made = again.name = again.output[0] = f"{self.node.output[0]}_weight"
        again.input[0] = name
        nodes.append(again)
        return made


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        entry.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None
            for axis in entry.type.tensor_type.shape.dim
        )
        for entry in (*inferred.value_info, *inferred.output)
    }


def _ordered(nodes: list[NodeProto], model: onnx.ModelProto) -> list[NodeProto]:
    """Put operators behind what they read, in the order that they have as far as possible."""
    ready = {entry.name for entry in (*model.graph.initializer, *model.graph.input)} | {""}
    waiting, ordered = nodes, []
    while waiting:
        later = []
        for node in waiting:
            if ready.issuperset(node.input):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if later == waiting:
            raise PlanError(f"the {later[0].op_type} {later[0].name!r} reads what nothing makes")
        waiting = later
    return ordered
