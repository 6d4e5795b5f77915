"""ONNX Runtime computes of each twin what the network computes, as closely as its format allows."""

import numpy as np
import onnx
import pytest

from compress.networks import deit
from compress.plan.twins import float_twin, fp8_twin, int4_twin
from tests.compress import graphs, tiny


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A DeiT in INT8, and its answers: float is what it answers before rounding."""
    path = tmp_path_factory.mktemp("twins") / "model.onnx"
    images = tiny.pictures(16, seed=1)
    made = tiny.network(
        hidden_size=64, num_attention_heads=4, intermediate_size=128, initializer_range=0.12
    )
    graphs.quantize(made, deit.FAMILY, images)
    size = (tiny.SIDE_PX, tiny.SIDE_PX)
    graphs.export(made, size, path)
    return onnx.load(path), images, graphs.run(path, images)["scores"]


# Of the scores of three classes, on average and at most: float lacks the rounding of INT8, FP8 has
# three bits of mantissa, INT4 fifteen steps a block.
@pytest.mark.parametrize(
    ("derive", "mean", "most"),
    [(float_twin, 0.01, 0.05), (fp8_twin, 0.03, 0.15), (int4_twin, 0.08, 0.3)],
)
def test_a_twin_answers_like_the_network(network, derive, mean, most, tmp_path):
    model, images, expected = network

    onnx.save(derive(model), tmp_path / "twin.onnx")
    came = graphs.run(tmp_path / "twin.onnx", images)["scores"]

    apart = np.abs(came - expected)
    assert 0 < apart.mean() < mean
    assert apart.max() < most
    # The answers to other pictures are further away than that.
    assert np.abs(came - expected[::-1]).mean() > 2 * mean
