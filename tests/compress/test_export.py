import copy
import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from compress import agreement, export, parity
from compress.calibrate import calibrate
from compress.errors import SparsityError
from compress.networks.network import Classifier
from compress.plan import sparsity
from compress.plan.bundle import read_bundle
from compress.prune import magnitude_masks
from compress.quantize import activation_quantizers, insert_quantizers, weight_scale
from contract import labels
from contract.card import ModelCard, Precision
from contract.preprocess import Preprocessing
from tests.compress import tiny

SIZE = Preprocessing(8, 8, 8)
CARD = ModelCard(
    "classify", labels.inline(list(tiny.CLASSES)), SIZE, Precision("int8", "int8", "2:4")
)


def compressed() -> tuple[Classifier, list[str]]:
    """Return a sparse quantised network and the names of its sparse weights."""
    network = tiny.network()
    masks = magnitude_masks(network, tiny.pruned_names(network))
    masks.apply(network)
    reads = {layer.name: layer.reads for layer in tiny.layers(network)}
    insert_quantizers(network, reads, learned=True)
    calibrate(network, [tiny.pictures(64)])
    return network.eval(), list(masks.masks)


@pytest.fixture(scope="module")
def student() -> tuple[Classifier, list[str]]:
    return compressed()


@pytest.fixture(scope="module")
def bundle(student: tuple[Classifier, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    network, pruned = student
    export.write_bundle(network, CARD, [tiny.pictures(64)], pruned, folder)
    return folder


@pytest.fixture(scope="module")
def graph(bundle: Path) -> onnx.GraphProto:
    return onnx.load(bundle / "model.onnx").graph


def stored(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}


def answers(model: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": images})[0]


def test_the_graph_keeps_the_contract(bundle, graph):
    model = onnx.load(bundle / "model.onnx")
    (image,), (scores,) = graph.input, graph.output

    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}
    assert (image.name, scores.name) == ("image", "scores")
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert scores.type.tensor_type.elem_type == TensorProto.FLOAT
    batch, *size = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [axis.dim_value for axis in size] == [8, 8, 3]
    assert [axis.dim_value for axis in scores.type.tensor_type.shape.dim][1:] == [3]
    read = read_bundle(bundle)
    assert read.card == CARD


def test_every_zero_point_is_zero_and_int8(graph):
    values = stored(graph)
    nodes = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]

    assert nodes
    for node in nodes:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()


def test_weights_are_int8_with_one_scale_an_output_channel(student, graph):
    network, _ = student
    values = stored(graph)
    readers = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values
    }

    layers = tiny.layers(network)
    assert len(readers) == len(layers)
    for layer in layers:
        (name,) = [key for key in readers if key.endswith(f"{layer.name}.weight")]
        weight = network.get_parameter(f"{layer.name}.weight").detach()
        scale = values[readers[name].input[1]]
        axis = {attribute.name: attribute.i for attribute in readers[name].attribute}["axis"]
        assert axis == 0
        assert values[name].dtype == np.int8
        assert values[name].shape == weight.shape
        assert np.array_equal(scale, weight_scale(weight).numpy())
        shape = (-1,) + (1,) * (weight.ndim - 1)
        error = np.abs(values[name] * scale.reshape(shape) - weight.numpy())
        assert (error <= scale.reshape(shape) / 2 * (1 + 1e-4)).all()


def test_no_weight_is_stored_as_float_besides_its_int8_form(student, graph):
    network, _ = student
    largest = max(parameter.numel() for parameter in network.parameters())
    position = network.get_parameter("body.vit.embeddings.position_embeddings").numel()

    floats = [v.size for v in stored(graph).values() if v.dtype == np.float32]

    assert largest > position
    assert max(floats) <= position


def test_the_stored_weights_are_two_of_four(student, graph):
    _, pruned = student
    values = stored(graph)

    for name in pruned:
        (weight,) = [value for key, value in values.items() if key.endswith(name)]
        held = (weight.reshape(len(weight), -1, 4) != 0).sum(axis=2)
        assert held.max() == 2


def test_query_key_and_value_read_one_quantised_tensor(graph):
    consumers = Counter(name for node in graph.node for name in node.input)
    quantised = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    dequantised = {
        node.input[0]: node.output[0] for node in graph.node if "Dequant" in node.op_type
    }

    # Patch embedding and head, and in each of two blocks: attention in and out, FFN in and out.
    assert len(quantised) == 2 + 2 * 4
    readers = sorted(consumers[dequantised[node.output[0]]] for node in quantised)
    assert readers == [1] * 8 + [3] * 2


def test_activation_scales_are_those_of_the_quantizers(student, graph):
    network, _ = student
    values = stored(graph)
    found = sorted(
        values[node.input[1]].item() for node in graph.node if node.op_type == "QuantizeLinear"
    )

    quantizers = activation_quantizers(network).values()
    assert found == sorted(quantizer.scale.item() for quantizer in quantizers)


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_runtime_answers_as_the_network_at_any_batch_size(student, bundle, count):
    network, _ = student
    images = tiny.pictures(count, seed=7)

    came = answers(bundle / "model.onnx", images.numpy())

    with torch.inference_mode():
        expected = network(images).softmax(dim=1).numpy()
    assert came.shape == (count, 3)
    assert came.sum(axis=1) == pytest.approx(np.ones(count), abs=1e-6)
    # A value at the edge between two integers may round either way in the two runtimes.
    assert np.abs(came - expected).mean() < 2e-3


def test_a_picture_gets_the_same_answer_alone_and_in_company(bundle):
    images = tiny.pictures(6).numpy()

    together = answers(bundle / "model.onnx", images)

    for index in range(6):
        alone = answers(bundle / "model.onnx", images[index : index + 1])
        assert np.abs(alone[0] - together[index]).max() < 2e-3


def test_the_parity_of_a_right_graph_is_reported(student, bundle):
    network, _ = student

    found = parity.compare(network, bundle / "model.onnx", [tiny.pictures(32)], "classify")

    assert found.refusal == ""
    assert found.agreement >= 0.98
    assert found.mean <= found.largest
    assert found.mean < 2e-3


def test_a_dense_float_network_exports_without_quantisation(tmp_path):
    network = tiny.network()

    export.write_graph(network, SIZE, tmp_path / "dense.onnx")

    graph = onnx.load(tmp_path / "dense.onnx").graph
    assert not [node for node in graph.node if "Quantize" in node.op_type]
    with torch.inference_mode():
        expected = network(tiny.pictures(3)).softmax(dim=1).numpy()
    came = answers(tmp_path / "dense.onnx", tiny.pictures(3).numpy())
    # Two float32 implementations.
    assert np.abs(came - expected).max() < 1e-4


def test_a_file_names_no_place_of_the_machine_that_wrote_it(bundle):
    data = (bundle / "model.onnx").read_bytes()

    assert b"site-packages" not in data
    assert str(Path.cwd()).encode() not in data


def rewritten(bundle: Path, folder: Path, change) -> Path:
    model = onnx.load(bundle / "model.onnx")
    change(model.graph)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def replace(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    (entry,) = [entry for entry in graph.initializer if entry.name == name]
    entry.CopyFrom(numpy_helper.from_array(values, name))


def test_a_weight_that_came_back_in_the_graph_is_refused_by_name(student, bundle, tmp_path):
    _, pruned = student
    name = pruned[5]

    def unzero(graph):
        (key,) = [key for key in stored(graph) if key.endswith(name)]
        weight = stored(graph)[key].copy()
        weight.reshape(-1)[:4] = 1
        replace(graph, key, weight)

    model = onnx.load(rewritten(bundle, tmp_path, unzero))

    with pytest.raises(SparsityError, match=rf"in 1 of \d+ groups .* of \S*{name} more weights"):
        sparsity.check(model, "2:4", "model.onnx", pruned)
    assert len(sparsity.check(onnx.load(bundle / "model.onnx"), "2:4", "", pruned)) == len(pruned)


def test_a_weight_that_is_not_in_the_graph_is_refused_by_name(bundle):
    model = onnx.load(bundle / "model.onnx")

    with pytest.raises(SparsityError, match=r"pruned weight body\.gone\.weight once .* it 0 times"):
        sparsity.check(model, "2:4", "model.onnx", ["body.gone.weight"])


@pytest.mark.parametrize("factor", [3.0, np.nan])
def test_a_graph_with_another_scale_is_refused_with_how_much_and_where(
    student, bundle, tmp_path, factor
):
    network, _ = student

    def rescale(graph):
        last = [node for node in graph.node if node.op_type == "QuantizeLinear"][-1]
        replace(graph, last.input[1], np.float32(stored(graph)[last.input[1]] * factor))

    model = rewritten(bundle, tmp_path, rescale)

    sentence = r"differ by .* at most \(picture \d+, class \d\) and .* on average .* same class"
    found = parity.compare(network, model, [tiny.pictures(32)], "classify")
    assert re.search(sentence, found.refusal)


def test_a_failed_export_leaves_the_old_bundle_untouched(student, tmp_path):
    network, pruned = student
    folder = tmp_path / "bundle"
    export.write_bundle(network, CARD, [tiny.pictures(8)], pruned, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.get_parameter(pruned[0]).add_(1)

    with pytest.raises(SparsityError, match=pruned[0]):
        export.write_bundle(broken, CARD, [tiny.pictures(8)], pruned, folder)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_the_same_network_gives_the_same_file(student, bundle, tmp_path):
    network, pruned = student

    export.write_bundle(network, CARD, [tiny.pictures(8)], pruned, tmp_path / "again")

    for name in ("model.onnx", "card.json"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()


def test_a_distilled_deit_exports_as_well(tmp_path):
    half = (0.5, 0.5, 0.5)
    network = Classifier(tiny.distilled_body(), half, half).eval()
    reads = {layer.name: layer.reads for layer in tiny.layers(network)}
    insert_quantizers(network, reads, learned=True)
    calibrate(network, [tiny.pictures(64)])

    card = dataclasses.replace(CARD, precision=Precision("int8", "int8", "dense"))

    found = export.write_bundle(network, card, [tiny.pictures(64)], [], tmp_path / "bundle")

    assert found.parity.agreement >= 0.98
    assert found.model == tmp_path / "bundle" / "model.onnx"


def test_a_graph_that_answers_otherwise_is_kept_beside_the_bundle_without_a_card(student, tmp_path):
    network, pruned = student
    other = copy.deepcopy(network)
    other.__class__ = tiny.OtherwiseWhenExported
    folder = tmp_path / "bundle"

    refused = export.write_bundle(other, CARD, [tiny.pictures(8)], pruned, folder)

    assert refused.parity.refusal
    assert refused.model == tmp_path / "refused.onnx"
    assert list(tmp_path.iterdir()) == [refused.model]
    assert not export.write_bundle(network, CARD, [tiny.pictures(8)], pruned, folder).parity.refusal
    assert list(tmp_path.iterdir()) == [folder]


def compared(expected: np.ndarray, came: np.ndarray) -> agreement.Parity:
    return agreement.compare("classify", {"scores": expected}, {"scores": came})


def test_a_picture_between_two_classes_may_tip_either_way_and_a_clear_one_may_not():
    network = np.array([[0.41, 0.40, 0.19], [0.70, 0.20, 0.10]], np.float32)
    tipped = np.array([[0.40, 0.41, 0.19], [0.70, 0.20, 0.10]], np.float32)
    wrong = np.array([[0.41, 0.40, 0.19], [0.20, 0.70, 0.10]], np.float32)

    third = np.array([[0.40, 0.19, 0.41], [0.70, 0.20, 0.10]], np.float32)
    assert compared(network, tipped).agreement == 1
    assert compared(network, wrong).agreement == 0.5
    # Wavering between two classes does not excuse a third one.
    assert compared(network, third).agreement == 0.5
