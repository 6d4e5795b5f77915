"""Formats and placements by name, from the recipe to the nodes of the exported graph."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from compress import export
from compress.calibrate import calibrate
from compress.errors import RecipeError, SparsityError
from compress.formats import FLOAT32, FP8, INT4, INT8
from compress.networks.network import Classifier, Layer
from compress.placement import layer_formats, place_quantizers
from compress.plan import sparsity
from compress.plan.forms import with_placement
from compress.plan.typed import strongly_typed
from compress.prune import magnitude_masks
from compress.quantize import activation_quantizers
from compress.recipe import Quantize
from compress.reference import onnx_asked
from contract.preprocess import Preprocessing
from service.executors.onnxruntime import OnnxRuntimeNetwork
from service.executors.openvino import OpenVinoNetwork
from tests.compress import tiny

SIZE = Preprocessing(8, 8, 8)
HALF = (0.5, 0.5, 0.5)
W4A4 = {"weights": "int4", "activations": "int4"}
W4 = {"weights": "int4", "activations": "float32"}
W8A8 = {"weights": "fp8", "activations": "fp8"}
PLACEMENTS = ("gemm", "gemm+add", "gemm+add+bmm")
BLOCKS = 2


def settings(**changes: Any) -> Quantize:
    return Quantize.model_validate({"schedule": None, "observer": "mse", **changes})


def quantized(network: Classifier, **changes: Any) -> Classifier:
    asked = settings(**changes)
    place_quantizers(network, tiny.layers(network), asked)
    calibrate(network, [tiny.pictures(64)], asked.observer, asked.percentile)
    return network.eval()


def wide() -> Classifier:
    """Return a network of one block, whose last layer alone is made of whole blocks of 64."""
    return tiny.network(intermediate_size=64, num_hidden_layers=1)


def by_role(network: Classifier, **changes: Any) -> dict[str, tuple[Any, ...]]:
    layers = tiny.layers(network)
    found = layer_formats(network, layers, settings(**changes))
    return {
        layer.role: (found[layer.name].weights, found[layer.name].activations) for layer in layers
    }


@pytest.mark.parametrize("activations", ["int4", "int8", "float32"])
def test_four_bit_networks_keep_first_and_last_layers_at_eight_unless_told(network, activations):
    asked = {"weights": "int4", "activations": activations}
    inner = {"int4": INT4, "int8": INT8, "float32": FLOAT32}[activations]
    outer = FLOAT32 if activations == "float32" else INT8

    kept, same = by_role(network, **asked), by_role(network, **asked, first_last="same")

    assert kept.pop("patch embedding") == kept.pop("head") == (INT8, outer)
    assert set(kept.values()) == {(INT4, inner)}
    assert set(same.values()) == {(INT4, inner)}


def test_fp8_holds_for_every_layer(network):
    assert set(by_role(network, **W8A8).values()) == {(FP8, FP8)}


def test_a_layer_that_is_not_made_of_whole_blocks_is_named_with_the_reason():
    network = wide()
    layers = tiny.layers(network)

    found = layer_formats(network, layers, settings(**W4, block_size=64, first_last="same"))

    blocks = {layer.role: found[layer.name].block_size for layer in layers}
    reasons = {layer.role: found[layer.name].reason for layer in layers}
    assert blocks.pop("FFN out") == 64
    assert set(blocks.values()) == {None}
    assert not reasons["FFN out"]
    assert "24 inputs are not a multiple of 64" in reasons["query"]
    assert "along the reduction axis of a Linear" in reasons["patch embedding"]


@pytest.mark.parametrize(
    ("weights", "expected"), [("int8", "max"), ("fp8", "max"), ("int4", "learned")]
)
def test_weight_scales_are_learned_in_four_bits_alone(network, weights, expected):
    asked = {"weights": weights, "activations": weights, "first_last": "same"}

    learned = layer_formats(network, tiny.layers(network), settings(**asked))
    still = layer_formats(network, tiny.layers(network), settings(**asked, learned_scales=False))

    assert {each.weight_scales for each in learned.values()} == {expected}
    assert "learned" not in {each.weight_scales for each in still.values()}


@pytest.mark.parametrize("body", [tiny.body, tiny.distilled_body], ids=["vit", "deit"])
def test_each_placement_adds_its_quantizers_and_changes_nothing_while_they_are_off(body):
    images = tiny.pictures(4)
    plain = Classifier(body(), HALF, HALF).eval()
    place_quantizers(plain, tiny.layers(plain), settings())
    expected = plain(images)
    inputs = len(activation_quantizers(plain))

    for placement, more in zip(PLACEMENTS, (0, 2, 6), strict=True):
        network = Classifier(body(), HALF, HALF).eval()
        place_quantizers(network, tiny.layers(network), settings(placement=placement))
        assert len(activation_quantizers(network)) == inputs + more * BLOCKS
        # Another attention kernel adds in another order.
        assert torch.allclose(network(images), expected, atol=1e-4)


def test_gradients_reach_every_weight_and_scale_through_rounded_attention(network):
    quantized(network, **W4A4, placement="gemm+add+bmm", first_last="same")

    network(tiny.pictures(8)).square().sum().backward()

    trained = {name: value.grad for name, value in network.named_parameters()}
    assert all(value is not None and value.isfinite().all() for value in trained.values())
    assert any(".products.shares.log_scale" in name for name in trained)
    assert any(".weight_quantizer.log_scale" in name for name in trained)


def test_the_softmax_output_has_the_fixed_range_one_in_fp8(network):
    quantized(network, **W8A8, placement="gemm+add+bmm")

    scales = [
        quantizer.scale.item()
        for name, quantizer in activation_quantizers(network).items()
        if name.endswith("products.shares")
    ]
    assert scales == pytest.approx([1 / 448] * BLOCKS)


def test_attention_without_a_query_layer_is_refused():
    network = tiny.network()
    layers = [Layer("body.classifier", "head", "body.classifier")]

    with pytest.raises(RecipeError, match="query layer of its own"):
        place_quantizers(network, layers, settings(placement="gemm+add+bmm"))


def _mixed_otherwise(
    attention: nn.Module, hidden: Tensor, mask: None = None, **_: Any
) -> tuple[Tensor, None]:
    read = attention.q_proj(hidden) + attention.k_proj(hidden) + attention.v_proj(hidden)
    return attention.o_proj(read), mask


def test_attention_that_does_not_ask_transformers_for_its_kernel_is_refused(network):
    for block in network.body.vit.layers:
        block.attention.forward = partial(_mixed_otherwise, block.attention)
    place_quantizers(network, tiny.layers(network), settings(placement="gemm+add+bmm"))

    with pytest.raises(RecipeError, match=r"products\.\w+.* smaller quantize\.placement"):
        calibrate(network, [tiny.pictures(4)])


@dataclass(frozen=True)
class Case:
    """A recipe's settings and what the graph then holds."""

    asked: dict[str, Any]
    opset: int
    rounded: int
    weights: dict[str, int]


# Six tensors are read by layers; two are added, four enter attention's products.
CASES = {
    "int8 bmm": Case({"placement": "gemm+add+bmm"}, 18, 12, {"INT8": 8}),
    "int4 bmm": Case(
        W4A4 | {"first_last": "same", "placement": "gemm+add+bmm"}, 21, 12, {"INT4": 8}
    ),
    "int4 blocks": Case(W4 | {"block_size": 64}, 21, 0, {"INT4": 6, "INT8": 2}),
    "fp8 add": Case(W8A8 | {"placement": "gemm+add"}, 19, 8, {"FLOAT8E4M3FN": 8}),
}
# Where a processor has no VNNI, the runtimes' usual INT8 kernels saturate.
_ANYWHERE = ("int4 bmm", "int4 blocks", "fp8 add")


@dataclass(frozen=True)
class Exported:
    """A network, its graph, and what the graph has to hold."""

    case: Case
    network: Classifier
    path: Path
    pruned: list[str]

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.path)

    def weights(self) -> dict[str, onnx.TensorProto]:
        entries = self.model.graph.initializer
        names = [f"{layer.name}.weight" for layer in tiny.layers(self.network)]
        return {name: next(each for each in entries if each.name.endswith(name)) for name in names}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    made = {}
    for name, case in CASES.items():
        network = wide()
        masks = magnitude_masks(network, tiny.pruned_names(network))
        masks.apply(network)
        quantized(network, **case.asked)
        path = tmp_path_factory.mktemp("placement") / "model.onnx"
        export.write_graph(network, SIZE, path)
        made[name] = Exported(case, network, path, list(masks.masks))
    return made


@pytest.mark.parametrize("name", CASES)
def test_a_graph_holds_exactly_the_expected_nodes_and_types(exports, name):
    found = exports[name]
    count = Counter(node.op_type for node in found.model.graph.node)
    kinds = Counter(
        TensorProto.DataType.Name(entry.data_type) for entry in found.weights().values()
    )

    assert {entry.domain: entry.version for entry in found.model.opset_import} == {
        "": found.case.opset
    }
    assert count["QuantizeLinear"] == found.case.rounded
    assert count["DequantizeLinear"] == found.case.rounded + len(found.weights())
    assert kinds == found.case.weights


@pytest.mark.parametrize("name", CASES)
def test_a_stored_weight_times_its_scale_is_the_weight_that_was_trained(exports, name):
    found = exports[name]
    scales = {
        node.input[0]: node.input[1]
        for node in found.model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    stored = {entry.name: entry for entry in found.model.graph.initializer}

    for key, entry in found.weights().items():
        layer = found.network.get_submodule(key.removesuffix(".weight"))
        scale = torch.from_numpy(numpy_helper.to_array(stored[scales[entry.name]]).copy())
        steps = torch.from_numpy(numpy_helper.to_array(entry).astype(np.float32))
        if scale.ndim == 2:
            scale = scale.repeat_interleave(64, dim=1)
        came = steps * scale.reshape(*scale.shape, *[1] * (steps.ndim - scale.ndim))
        expected = layer.weight_quantizer(layer.weight).detach()
        # Two orders of dividing and multiplying; a value between two steps may go either way.
        far = (came - expected).abs() > 1e-5 * expected.abs().max()
        assert far.float().mean() < 0.005


def test_four_bit_weights_are_stored_two_in_a_byte(exports):
    for entry in exports["int4 bmm"].weights().values():
        assert 2 * len(entry.raw_data) == np.prod(entry.dims)


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_computes_what_the_network_computes(exports, name):
    found = exports[name]
    images = tiny.pictures(64, seed=3)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(found.path, options, providers=["CPUExecutionProvider"])

    (came,) = session.run(["scores"], {"image": images.numpy()})

    with torch.inference_mode():
        expected = found.network(images).softmax(dim=1).numpy()
    assert np.abs(came - expected).mean() < 2e-3


@pytest.mark.parametrize("name", _ANYWHERE)
def test_the_gateways_runtimes_agree_with_the_network(exports, name):
    found = exports[name]
    images = tiny.pictures(64, seed=3)
    with torch.inference_mode():
        expected = found.network(images).softmax(dim=1).numpy()

    for runtime in (OnnxRuntimeNetwork, OpenVinoNetwork):
        came = runtime(found.path).run(images.numpy())["scores"]
        assert np.mean(came.argmax(axis=1) == expected.argmax(axis=1)) >= 0.95
        # OpenVINO rounds to FP8 by way of FP16, which moves values that lie between two steps.
        assert np.abs(came - expected).mean() < (0.03 if name == "fp8 add" else 5e-3)


@pytest.mark.parametrize("name", ["int4 bmm", "int4 blocks", "fp8 add"])
def test_a_graph_of_every_format_passes_its_own_checks_and_a_broken_mask_does_not(exports, name):
    found = exports[name]
    broken = found.model
    key = found.pruned[3]
    for entry in broken.graph.initializer:
        if entry.name.endswith(key):
            ones = np.ones(entry.dims, numpy_helper.to_array(entry).dtype)
            entry.CopyFrom(numpy_helper.from_array(ones, entry.name))

    assert len(sparsity.check(onnx.load(found.path), "2:4", "", found.pruned)) >= len(found.pruned)
    with pytest.raises(SparsityError, match=key):
        sparsity.check(broken, "2:4", "", found.pruned)


@pytest.mark.parametrize("placement", PLACEMENTS[1:])
def test_a_placement_that_would_round_nothing_more_is_refused(network, placement):
    known = ("attention output", "FFN out")
    layers = [layer for layer in tiny.layers(network) if layer.role not in known]

    with pytest.raises(RecipeError, match=r"no layer that is known as either. Take gemm\."):
        place_quantizers(network, layers, settings(placement=placement))


# No TensorRT takes activations in INT4.
@pytest.mark.parametrize("name", ["int8 bmm", "int4 blocks", "fp8 add"])
def test_the_strongly_typed_form_answers_as_the_graph(exports, name, tmp_path):
    images = tiny.pictures(64, seed=3).numpy()
    typed = tmp_path / "typed.onnx"
    onnx.save(strongly_typed(exports[name].model), typed)

    expected, came = (onnx_asked(path)(images)["scores"] for path in (exports[name].path, typed))

    # Rounding to float16 moves a few activations to the neighbouring step.
    assert 0 < np.abs(came - expected).mean() < 0.01
    assert np.mean(came.argmax(axis=1) == expected.argmax(axis=1)) >= 0.95


@pytest.mark.parametrize(("placement", "rounded"), [("gemm", 6), ("gemm+add", 8)])
def test_a_placement_that_rounds_less_is_derived_from_the_graph(
    exports, placement, rounded, tmp_path
):
    images = tiny.pictures(64, seed=3).numpy()
    model = with_placement(exports["int8 bmm"].model, placement)
    onnx.save(model, tmp_path / "less.onnx")

    count = Counter(node.op_type for node in model.graph.node)
    expected = onnx_asked(exports["int8 bmm"].path)(images)["scores"]
    came = onnx_asked(tmp_path / "less.onnx")(images)["scores"]

    assert count["QuantizeLinear"] == rounded
    # What is no longer rounded differs by what rounding did.
    assert np.abs(came - expected).mean() < 0.03
