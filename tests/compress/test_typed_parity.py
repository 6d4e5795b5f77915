"""ONNX Runtime computes of every form of a graph what it computes of the graph itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from compress.networks import detr, swin
from compress.networks.network import Classifier
from compress.plan.typed import opset_of, strongly_typed, weakly_typed
from tests.compress import graphs, test_detr, test_export, test_swin, tiny


def deit_graph(path: Path) -> int:
    network, _ = test_export.compressed()
    graphs.export(network, (tiny.SIDE_PX, tiny.SIDE_PX), path)
    return tiny.SIDE_PX


def swin_graph(path: Path) -> int:
    torch.manual_seed(0)
    body = graphs.shaken(swin.build({**test_swin.ARCHITECTURE, "num_labels": 3})).eval()
    network = Classifier(body, (0.5,) * 3, (0.5,) * 3).eval()
    return written(network, swin.FAMILY, test_swin.ARCHITECTURE["image_size"], path)


def detr_graph(path: Path) -> int:
    torch.manual_seed(0)
    body = graphs.shaken(detr.build(test_detr.ARCHITECTURE)).eval()
    network = detr.Detr(body, (0.5,) * 3, (0.25,) * 3).eval()
    return written(network, detr.FAMILY, test_detr.SIDE_PX, path)


def written(network: Any, family: Any, side_px: int, path: Path) -> int:
    graphs.quantize(network, family, tiny.pictures(4, side_px=side_px))
    graphs.export(network, (side_px, side_px), path)
    return side_px


@pytest.mark.parametrize(
    "make",
    [
        deit_graph,
        *(pytest.param(make, marks=pytest.mark.slow) for make in (swin_graph, detr_graph)),
    ],
)
def test_every_form_answers_as_the_graph(make: Callable[[Path], int], tmp_path):
    path = tmp_path / "model.onnx"
    images = tiny.pictures(16, seed=1, side_px=make(path))
    model, expected = onnx.load(path), graphs.run(path, images)

    typed, weak = strongly_typed(model), weakly_typed(model)

    onnx.save(weak, tmp_path / "weak.onnx")
    for name, value in graphs.run(tmp_path / "weak.onnx", images).items():
        np.testing.assert_array_equal(value, expected[name])
    onnx.save(typed, tmp_path / "typed.onnx")
    came = graphs.run(tmp_path / "typed.onnx", images)
    for name, value in came.items():
        assert (value.dtype, value.shape) == (expected[name].dtype, expected[name].shape)
    # Rounding to float16 moves a few activations to the neighbouring integer.
    apart = np.abs(came["scores"] - expected["scores"])
    assert 0 < apart.mean() < 0.01
    assert apart.max() < 0.05
    assert np.ptp(expected["scores"]) > 5 * apart.mean()
    # Weights and operators of the graph stay; only types change.
    integers = {e.name: e for e in model.graph.initializer if e.data_type == TensorProto.INT8}
    kept = {e.name: e for e in typed.graph.initializer if e.name in integers}
    assert integers.keys() == kept.keys()
    for name, entry in integers.items():
        np.testing.assert_array_equal(
            numpy_helper.to_array(kept[name]), numpy_helper.to_array(entry)
        )
    assert operators(typed) == operators(model)
    assert (opset_of(typed), opset_of(weak)) == (19, 17)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type != "Cast"]


def test_layer_normalisation_in_parts_answers_as_the_operator(tmp_path):
    path = tmp_path / "model.onnx"
    images = tiny.pictures(16, seed=1, side_px=deit_graph(path))
    model, expected = onnx.load(path), graphs.run(path, images)

    parts = weakly_typed(model, layer_norms=False)

    onnx.save(parts, tmp_path / "parts.onnx")
    came = graphs.run(tmp_path / "parts.onnx", images)
    # Sums in another order tip a rounding now and then.
    assert np.abs(came["scores"] - expected["scores"]).mean() < 1e-3
    assert "LayerNormalization" in operators(model)
    assert "LayerNormalization" not in operators(parts)
    assert opset_of(parts) == 17
