"""A graph is rounded as the contract says, and its card names the formats that it has."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compress.errors import PublishError
from compress.plan.bundle import read_bundle
from contract.card import Precision
from tests import sparse_bundle
from tests.bundles import write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", sparse_bundle.network(), sparse_bundle.card())


def rewritten(bundle, change):
    model = onnx.load(bundle / "model.onnx")
    change(model.graph)
    onnx.save(model, bundle / "model.onnx")


def stored(graph, name):
    return next(entry for entry in graph.initializer if entry.name == name)


def replaced(graph, name, values):
    stored(graph, name).CopyFrom(numpy_helper.from_array(values, name))


def first(graph, operator):
    return next(node for node in graph.node if node.op_type == operator)


def weight_node(graph):
    names = {entry.name for entry in graph.initializer}
    return next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in names)


def wrong_axis(graph):
    node = weight_node(graph)
    scales = np.full(stored(graph, node.input[0]).dims[0], 0.1, np.float32)
    graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(len(scales), np.int8), "zeros"))
    node.input[1], node.input[2] = "scales", "zeros"
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def zero_point(graph):
    replaced(graph, first(graph, "QuantizeLinear").input[2], np.int8(3))


def no_number(graph):
    replaced(graph, first(graph, "QuantizeLinear").input[1], np.float32(np.nan))


def negative(graph):
    replaced(graph, first(graph, "QuantizeLinear").input[1], np.float32(-0.5))


def foreign(graph):
    first(
        graph, "Relu" if any(n.op_type == "Relu" for n in graph.node) else "MatMul"
    ).domain = "com.acme"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (wrong_axis, r"has \d+ scales, axis 1 of its weight has \d+\. Export it again"),
        (zero_point, "has a zero point that is not 0"),
        (no_number, "has a scale that is no positive number"),
        (negative, "has a scale that is no positive number"),
        (foreign, r"has operators of com\.acme, expected ONNX's own"),
    ],
)
def test_a_graph_that_is_rounded_otherwise_is_refused(bundle, fault, says):
    rewritten(bundle, fault)

    with pytest.raises(PublishError, match=says):
        read_bundle(bundle)


@pytest.mark.parametrize("named", ["float32", "fp8", "int4"])
@pytest.mark.parametrize("what", ["weights", "activations"])
def test_a_card_that_names_another_format_is_refused(bundle, what, named):
    card = sparse_bundle.card()
    precision = dataclasses.replace(Precision("int8", "int8", "2:4"), **{what: named})
    changed = dataclasses.replace(card, precision=precision)
    (bundle / "card.json").write_text(changed.to_json())

    with pytest.raises(PublishError, match=f"the card says that {what} are {named}.*in int8"):
        read_bundle(bundle)


def test_the_bundle_as_it_is_is_taken(bundle):
    assert read_bundle(bundle).card.precision == Precision("int8", "int8", "2:4")
