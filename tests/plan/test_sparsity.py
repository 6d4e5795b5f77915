"""Whether a graph's weights are as sparse as its card says."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import SparsityError
from compress.plan import sparsity
from compress.plan.bundle import read_bundle
from contract.card import Precision
from tests.bundles import colour_card, colour_graph, write_bundle


def sparse(out: int, inner: int, pattern: str = "2:4") -> np.ndarray:
    """Return INT8 weights [out, inner] of which each group keeps what a pattern lets it."""
    values = np.random.default_rng(0).integers(1, 100, (out, inner)).astype(np.int8)
    if pattern == "2:4":
        values.reshape(out, -1, 4)[..., 1:3] = 0
    else:
        values.reshape(out, -1, 4, 2)[:, :, 1::2] = 0
    return values


def graph(values: np.ndarray, form: str) -> onnx.ModelProto:
    """Return a graph with one product by weights [out, inner], written in one of five ways."""
    stored = values.T if form in {"matmul", "gemm"} else values
    if form == "conv":
        stored = values.reshape(len(values), -1, 2, 2)
    nodes = [helper.make_node("DequantizeLinear", ["weight", "scale"], ["float"])]
    factor = "float"
    if form == "transposed matmul":
        nodes.append(helper.make_node("Transpose", ["float"], ["turned"], perm=[1, 0]))
        factor = "turned"
    kind = {"matmul": "MatMul", "transposed matmul": "MatMul", "conv": "Conv"}.get(form, "Gemm")
    more = {"transB": 1} if form == "gemm of rows" else {}
    nodes.append(helper.make_node(kind, ["x", factor], ["y"], **more))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.ascontiguousarray(stored), "weight"),
                numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            ],
        )
    )


FORMS = ["matmul", "transposed matmul", "gemm", "gemm of rows", "conv"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_a_weight_is_read_along_the_axis_that_its_product_sums(form, pattern):
    values = sparse(16, 24, pattern)

    assert sparsity.check(graph(values, form), pattern, "model.onnx") == ["weight"]
    assert [weight.values.tolist() for weight in sparsity.weights(graph(values, form).graph)] == [
        values.tolist()
    ]


@pytest.mark.parametrize("form", FORMS)
def test_one_weight_too_many_in_one_group_is_refused(form):
    values = sparse(16, 24)
    values[3, 5] = 1

    with pytest.raises(SparsityError, match=r"the card says 2:4, but in 1 of 96 groups"):
        sparsity.check(graph(values, form), "2:4", "model.onnx")


def test_groups_along_the_other_axis_are_refused_and_named():
    # Along the rows, whole columns are kept, which no group of four neighbours allows.
    along_rows = np.ascontiguousarray(sparse(24, 16).T)

    with pytest.raises(SparsityError, match="it does along the other axis"):
        sparsity.check(graph(along_rows, "transposed matmul"), "2:4", "model.onnx")


def test_a_dense_weight_beside_sparse_ones_is_no_fault_but_a_graph_of_dense_ones_is():
    dense = np.ones((8, 8), np.int8)
    model = graph(sparse(8, 8), "matmul")
    model.graph.initializer.append(numpy_helper.from_array(dense, "head"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "head"], ["z"]))

    assert sparsity.check(model, "2:4", "model.onnx") == ["weight"]
    with pytest.raises(SparsityError, match="no weight follows it along its reduction axis"):
        sparsity.check(graph(dense, "matmul"), "2:4", "model.onnx")
    assert sparsity.check(graph(dense, "matmul"), "dense", "model.onnx") == []


def test_a_weight_that_was_pruned_is_refused_however_few_zeros_are_left():
    model = graph(sparse(8, 8), "matmul")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8), np.int8), "a.head"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "a.head"], ["z"]))

    with pytest.raises(SparsityError, match=r"in 16 of 16 groups .* of a\.head more weights"):
        sparsity.check(model, "2:4", "model.onnx", ["weight", "head"])


@pytest.mark.parametrize(("name", "times"), [("body.gone.weight", 0), ("ght", 2)])
def test_a_weight_that_was_pruned_and_is_not_there_once_is_refused_by_name(name, times):
    model = graph(sparse(8, 8), "matmul")
    model.graph.initializer.append(numpy_helper.from_array(sparse(8, 8).T.copy(), "other.weight"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "other.weight"], ["z"]))

    with pytest.raises(SparsityError, match=f"pruned weight {name} once .* found it {times} times"):
        sparsity.check(model, "2:4", "model.onnx", [name])


def test_a_bundle_that_is_not_as_sparse_as_its_card_says_is_refused(tmp_path):
    card = dataclasses.replace(colour_card(), precision=Precision("float32", "float32", "2:4"))
    folder = write_bundle(tmp_path / "bundle", colour_graph(), card)

    with pytest.raises(SparsityError, match=r"model\.onnx: the card says 2:4"):
        read_bundle(folder)
