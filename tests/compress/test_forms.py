"""A plan may be built of another form of the graph: it has to compute what the graph computes."""

import collections

import numpy as np
import onnx
import pytest

from compress.plan import sparsity
from compress.plan.build import Options
from compress.plan.forms import with_linears
from compress.plan.search import candidates
from tests.compress import graphs, tiny
from tests.compress.test_typed_parity import deit_graph, swin_graph


@pytest.mark.parametrize("form", ["gemm", "conv"])
@pytest.mark.parametrize("make", [deit_graph, pytest.param(swin_graph, marks=pytest.mark.slow)])
def test_linears_of_another_form_answer_the_same(make, form, tmp_path):
    path = tmp_path / "model.onnx"
    images = tiny.pictures(16, seed=1, side_px=make(path))
    model, expected = onnx.load(path), graphs.run(path, images)

    changed = with_linears(model, form)

    onnx.save(changed, tmp_path / "changed.onnx")
    for name, value in graphs.run(tmp_path / "changed.onnx", images).items():
        # Sums in another order tip a rounding now and then.
        np.testing.assert_allclose(value, expected[name], atol=0.02)
        assert np.abs(value - expected[name]).mean() < 1e-3
    before, after = (collections.Counter(n.op_type for n in m.graph.node) for m in (model, changed))
    # Products of two activations stay, those with a weight do not.
    moved = before["MatMul"] - after["MatMul"]
    assert moved == after["Gemm" if form == "gemm" else "Conv"] - before[form.capitalize()]
    assert moved >= 4
    assert after["QuantizeLinear"] == before["QuantizeLinear"]
    # The weights are as sparse as before, along the axis that is summed over.
    if make is deit_graph:
        followed = [len(sparsity.check(m, "2:4", "graph")) for m in (model, changed)]
        assert followed[0] == followed[1] > 0


def test_matmul_is_the_form_of_the_exporter(tmp_path):
    deit_graph(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")

    assert with_linears(model, "matmul") == model


def test_a_search_tries_each_form_once(tmp_path):
    deit_graph(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")

    typed, weak = (
        [one.name for one in candidates(model, Options(), strongly_typed=strong)]
        for strong in (True, False)
    )

    # This network rounds what layers read and nothing else: one placement, three Linears.
    assert weak == [f"{linear}, rounded at gemm+add+bmm" for linear in ("matmul", "gemm", "conv")]
    assert len(typed) == 2 * len(weak)


@pytest.mark.parametrize("form", ["gemm", "conv"])
def test_a_linear_without_a_bias_gets_no_empty_input(form, tmp_path):
    deit_graph(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    biases = {e.name for e in model.graph.initializer if e.name.endswith("q_proj.bias")}
    for node in [n for n in model.graph.node if n.op_type == "Add" and biases & set(n.input)]:
        (product,) = set(node.input) - biases
        for reader in model.graph.node:
            for index, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[index] = product
        model.graph.node.remove(node)

    changed = with_linears(model, form)

    made = [n for n in changed.graph.node if n.op_type == ("Gemm" if form == "gemm" else "Conv")]
    assert biases
    assert any(len(node.input) == 2 for node in made)
    assert all(all(node.input) for node in made)
