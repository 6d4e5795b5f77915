"""ONNX Runtime, as it is asked, computes what the graph says."""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from compress import reference
from compress.plan.twins import fp8_twin
from service.executors.onnxruntime import OnnxRuntimeNetwork
from tests import sparse_bundle


def test_a_relu_in_front_of_fp8_is_computed(tmp_path):
    model = fp8_twin(sparse_bundle.network())
    onnx.save(model, tmp_path / "model.onnx")
    side = sparse_bundle.SIDE_PX
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)

    came = reference.onnx_asked(tmp_path / "model.onnx")(images)["scores"]

    (expected,) = ReferenceEvaluator(model).run(None, {"image": images})
    served = OnnxRuntimeNetwork(tmp_path / "model.onnx").run(images)["scores"]
    # Without the ReLU, scores are 0.02 apart on average.
    np.testing.assert_allclose(came, expected, atol=1e-5)
    np.testing.assert_allclose(served, expected, atol=1e-5)
