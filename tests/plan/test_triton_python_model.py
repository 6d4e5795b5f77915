"""The program that Triton's Python backend runs, between stand-ins for the server's own objects."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from compress.plan.repository import publish
from compress.plan.triton_python_model import TritonPythonModel
from tests.bundles import colour_card, colour_graph, colour_scores, write_bundle

RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(params=RUNTIMES)
def model(request, monkeypatch, tmp_path):
    """Return the model as the server has it after loading; requests are lists of pictures."""
    pytest.importorskip(request.param)
    for runtime in RUNTIMES[: RUNTIMES.index(request.param)]:
        hide(monkeypatch, runtime)
    server = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(
            as_numpy=lambda: request[name]
        ),
        Tensor=lambda name, array: (name, array),
        InferenceResponse=dict,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)
    bundle = write_bundle(tmp_path / "bundle", colour_graph(), colour_card())
    publish(bundle, tmp_path, "colours", backend="python")
    loaded = TritonPythonModel()
    loaded.initialize({"model_repository": str(tmp_path / "colours"), "model_version": "1"})
    return loaded


def hide(monkeypatch, package):
    """Make a package look as if it were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    monkeypatch.setitem(sys.modules, package, None)


def test_requests_that_wait_together_each_get_their_own_rows(model):
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    pictures = np.broadcast_to(np.stack([red, green, blue])[:, None, None], (3, 8, 8, 3))

    one, two = model.execute([{"image": pictures[:1]}, {"image": pictures[1:]}])

    assert one["scores"].shape == (1, 4)
    assert one["scores"].argmax(axis=1).tolist() == [0]
    assert two["scores"].argmax(axis=1).tolist() == [1, 2]
    np.testing.assert_allclose(one["scores"][0], colour_scores(1, 0, 0), rtol=1e-5)
