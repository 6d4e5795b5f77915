"""Where a graph rounds may be taken back, and what cannot be rewritten stays."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.plan.forms import PLACEMENTS, with_linears, with_placement


def rounded(name):
    """Return the two operators that round a tensor to INT8 and back."""
    return [
        helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_r"]),
    ]


def block():
    """A layer, a product of activations and a residual addition, all of them rounded."""
    graph = helper.make_graph(
        [
            *rounded("x"),
            helper.make_node("MatMul", ["x_r", "w"], ["h"]),
            *rounded("h"),
            helper.make_node("Transpose", ["h_r"], ["t"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["h_r", "t"], ["p"]),
            *rounded("p"),
            helper.make_node("MatMul", ["p_r", "h_r"], ["o"]),
            helper.make_node("Add", ["h_r", "o"], ["y"]),
        ],
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, 4])],
        [
            numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
            numpy_helper.from_array(np.float32(0.5), "s"),
            numpy_helper.from_array(np.int8(0), "z"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


ROUNDING = {"QuantizeLinear", "DequantizeLinear"}


def inputs_of(model):
    return [list(node.input) for node in model.graph.node if node.op_type not in ROUNDING]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("gemm", [["x_r", "w"], ["h"], ["h", "t"], ["p", "h"], ["h", "o"]]),
        ("gemm+add", [["x_r", "w"], ["h"], ["h", "t"], ["p", "h"], ["h_r", "o"]]),
        ("gemm+add+bmm", [["x_r", "w"], ["h_r"], ["h_r", "t"], ["p_r", "h_r"], ["h_r", "o"]]),
    ],
)
def test_only_what_a_placement_names_reads_rounded_values(placement, expected):
    assert inputs_of(with_placement(block(), placement)) == expected


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_nothing_reads_any_more_is_gone(placement):
    model = with_placement(block(), placement)

    read = {name for node in model.graph.node for name in node.input} | {"y"}
    assert all(read.issuperset(node.output) for node in model.graph.node)


def test_a_product_whose_inner_axes_are_unknown_stays_as_it_is():
    model = block()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "n"

    changed = with_linears(model, "gemm")

    assert inputs_of(changed) == inputs_of(model)


def test_the_graph_that_was_given_is_not_changed():
    model = block()
    before = model.SerializeToString()

    with_linears(model, "conv")
    with_placement(model, "gemm")

    assert model.SerializeToString() == before
    onnx.checker.check_model(model)
