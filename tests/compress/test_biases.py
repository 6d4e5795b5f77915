"""Convolutions without a bias, whose INT8 form OpenVINO computes wrongly."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from compress import qdq
from compress.calibrate import calibrate
from compress.quantize import freeze_scales, insert_quantizers


class Branching(nn.Module):
    """The output of the first convolution is rounded for the second, and read as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.first(values)
        return self.second(shared), shared.sigmoid()


@pytest.mark.filterwarnings("ignore::")
def test_a_convolution_without_a_bias_is_the_same_in_openvino(tmp_path: Path):
    torch.manual_seed(0)
    network = Branching().eval()
    insert_quantizers(network, {"first": "first", "second": "second"}, learned=False)
    values = torch.randn(2, 16, 8, 8)
    calibrate(network, [values], "max")
    freeze_scales(network)
    program = torch.onnx.export(
        network,
        (values,),
        dynamo=True,
        opset_version=18,
        output_names=["far", "near"],
        # With a batch of a fixed size OpenVINO computes what is meant.
        dynamic_shapes=({0: torch.export.Dim("b")},),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    qdq.store_weights(model)
    before = onnxruntime.InferenceSession(model.SerializeToString())
    qdq.add_biases(model)
    onnx.save(model, tmp_path / "model.onnx")

    onnx.checker.check_model(model)
    feeds = {before.get_inputs()[0].name: values.numpy()}
    expected = before.run(["far", "near"], feeds)
    after = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["far", "near"], feeds)
    for one, other in zip(expected, after, strict=True):
        np.testing.assert_array_equal(one, other)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", settings)
    came = compiled([values.numpy()])
    assert expected[0].std() > 0.1
    np.testing.assert_allclose(came["far"], expected[0], rtol=0, atol=0.02)
