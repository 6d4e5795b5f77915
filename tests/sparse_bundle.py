"""A network of two Linears in INT8 whose weights are 2:4 sparse, as a bundle with its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.plan import recorded, twin_answers
from contract import labels
from contract.card import ModelCard, Precision
from contract.preprocess import Preprocessing
from tests.bundles import write_bundle

CLASSES, HIDDEN, SIDE_PX = 16, 128, 8


def write(folder: Path) -> Path:
    """Write it, with what ONNX Runtime answers for it and for its twins."""
    write_bundle(folder, network(), card())
    shape = (6, SIDE_PX, SIDE_PX, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    recorded.ask(folder / "model.onnx", pictures, "noise").save(folder)
    twin_answers.record(folder)
    return folder


def card() -> ModelCard:
    """Return its card."""
    return ModelCard(
        task="classify",
        labels=labels.inline([str(index) for index in range(CLASSES)]),
        preprocessing=Preprocessing(SIDE_PX, SIDE_PX, SIDE_PX),
        precision=Precision("int8", "int8", "2:4"),
    )


def constant(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def linear(name, source, made, inner, outer):
    """A Linear in INT8, its weight 2:4 sparse."""
    rng = np.random.default_rng(inner)
    steps = rng.integers(-127, 128, (outer, inner)).astype(np.int8)
    steps[:, 0::4] = steps[:, 2::4] = 0
    nodes = [
        helper.make_node("QuantizeLinear", [source, f"{name}.s", "z"], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", "z"], [f"{name}.x"]),
        helper.make_node("DequantizeLinear", [name, f"{name}.ws", f"{name}.wz"], [f"{name}.w"]),
        helper.make_node("Transpose", [f"{name}.w"], [f"{name}.t"], perm=[1, 0]),
        helper.make_node("MatMul", [f"{name}.x", f"{name}.t"], [made], name=f"{name}.product"),
    ]
    nodes[2].attribute.append(helper.make_attribute("axis", 0))
    return nodes, [
        constant(name, steps),
        constant(f"{name}.s", np.float32(4 / 127)),
        constant(f"{name}.ws", np.full(outer, 3 / 127 / inner**0.5, np.float32)),
        constant(f"{name}.wz", np.zeros(outer, np.int8)),
    ]


def network() -> onnx.ModelProto:
    """Return the graph."""
    first, stored = linear("first", "flat", "hidden", SIDE_PX * SIDE_PX * 3, HIDDEN)
    second, others = linear("second", "active", "logits", HIDDEN, CLASSES)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "by"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
        *first,
        helper.make_node("Relu", ["hidden"], ["active"]),
        *second,
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    size = ["b", SIDE_PX, SIDE_PX, 3]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", CLASSES])],
        [
            constant("z", np.int8(0)),
            constant("by", np.float32(2 / 255)),
            constant("one", np.float32(1)),
            *stored,
            *others,
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
