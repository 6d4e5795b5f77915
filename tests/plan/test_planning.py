"""A plan is built, checked and installed on a stand-in for TensorRT: see tests/standin."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.errors import CompressError, PlanError
from compress.plan import planning, recorded
from compress.plan.build import Options
from compress.plan.planning import Order
from compress.plan.repository import publish
from contract import plan_card
from contract.card import Precision
from contract.errors import EngineError
from tests.bundles import colour_card, colour_graph, write_bundle
from tests.standin import plan as standin_plan
from tests.standin.gpu import Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path / "colours", colour_graph(), colour_card())
    pictures = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    recorded.ask(folder / "model.onnx", pictures, "noise").save(folder)
    return folder


def ordered(bundle: Path, **changes: object) -> Order:
    return Order(bundle, bundle.parent / "repository", "colours", **changes)  # type: ignore[arg-type]


def config_of(version: Path) -> ModelConfig:
    return text_format.Parse((version.parent / "config.pbtxt").read_text(), ModelConfig())


def plans_of(version: Path) -> dict[str, plan_card.PlanCard]:
    parameters = {key: entry.string_value for key, entry in config_of(version).parameters.items()}
    return plan_card.from_parameters(parameters)


@pytest.mark.parametrize("tensorrt", ["8.5.2", "8.6.1", "10.3.0", "11.4.1"])
@pytest.mark.parametrize("body", ["float16", "tf32", "float32"])
def test_a_plan_is_built_checked_and_installed(bundle, install: Install, tensorrt, body):
    install(tensorrt, Gpu(name="H100", capability=(9, 0)))

    version, checked = planning.plan(
        ordered(bundle, options=Options(body=body, max_batch=4, best_batch=2))
    )

    assert version == bundle.parent / "repository" / "colours" / "1"
    assert checked.parity.agreement == 1
    files = sorted(path.name for path in version.iterdir())
    assert files == ["model.onnx", "model.sm90.json", "model.sm90.plan"]
    config = config_of(version)
    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    assert config.default_model_filename == "model.sm90.plan"
    assert dict(config.cc_model_filenames) == {"9.0": "model.sm90.plan"}
    assert [entry.batch_size for entry in config.model_warmup] == [1, 2, 3, 4]
    card = plans_of(version)["model.sm90.plan"]
    assert (card.tensorrt, card.capability, card.gpu, card.max_batch) == (
        tensorrt,
        "9.0",
        "H100",
        4,
    )
    assert ("TF32" in card.flags) is (body == "tf32")
    assert ("FP16" in card.flags) is (body == "float16" and tensorrt.startswith("8"))
    report = json.loads((version / "model.sm90.json").read_text())
    assert report["parity"]["agreement"] == 1
    assert set(report["latency_ms"]) == {"1", "2"}
    assert set(report["layers"]) == {"eligible", "picked", "int8", "fell_back"}


def test_a_plan_for_another_gpu_joins_those_that_are_there(bundle, install: Install):
    install("10.3.0", Gpu(name="A100", capability=(8, 0)))
    first, _ = planning.plan(ordered(bundle, options=Options(max_batch=4, best_batch=4)))
    install("10.3.0", Gpu(name="H100", capability=(9, 0)))

    second, _ = planning.plan(ordered(bundle))

    assert (first.name, second.name) == ("1", "2")
    assert (second / "model.sm80.plan").read_bytes() == (first / "model.sm80.plan").read_bytes()
    assert (second / "model.sm80.json").is_file()
    config = config_of(second)
    assert dict(config.cc_model_filenames) == {"8.0": "model.sm80.plan", "9.0": "model.sm90.plan"}
    # What all of them can take.
    assert config.max_batch_size == 4
    assert plans_of(second)["model.sm80.plan"].gpu == "A100"


def test_plans_of_another_network_are_left_behind(bundle, install: Install):
    install("10.3.0", Gpu(capability=(8, 0)))
    planning.plan(ordered(bundle))
    graph = colour_graph()
    graph.doc_string = "another"
    write_bundle(bundle, graph, colour_card())
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    recorded.ask(bundle / "model.onnx", pictures, "black").save(bundle)
    install("10.3.0", Gpu(capability=(9, 0)))

    version, _ = planning.plan(ordered(bundle))

    assert set(plans_of(version)) == {"model.sm90.plan"}


def test_a_plan_that_answers_otherwise_is_not_installed(bundle, install: Install):
    install("10.3.0")
    path = bundle / recorded.FILE
    with np.load(path) as stored:
        named = {name: stored[name] for name in stored.files}
    named["answer.scores"] = np.roll(named["answer.scores"], 1, axis=1)
    np.savez(path, **named)

    with pytest.raises(PlanError, match=r"does not compute what the graph computes.*installed"):
        planning.plan(ordered(bundle))

    assert not (bundle.parent / "repository" / "colours").exists()


def test_a_published_model_is_planned_with_pictures_of_a_folder(bundle, install: Install):
    from PIL import Image  # noqa: PLC0415 - one test makes a picture

    install("10.3.0")
    folder = bundle.parent / "pictures"
    folder.mkdir()
    Image.new("RGB", (20, 12), "red").save(folder / "red.png")
    (folder / "broken.png").write_bytes(b"no picture")
    published = publish(bundle, bundle.parent / "published", "colours").parent

    version, checked = planning.plan(
        Order(published, bundle.parent / "repository", "colours", pictures=folder)
    )

    assert checked.parity.agreement == 1
    assert (version / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_without_pictures_nothing_is_built(bundle, install: Install):
    standin = install("10.3.0")
    standin.building = lambda: pytest.fail("built")
    (bundle / recorded.FILE).unlink()

    with pytest.raises(PlanError, match=r"expected answers\.npz .* Give some: --pictures DIR"):
        planning.plan(ordered(bundle))


def test_answers_of_another_graph_are_refused(bundle, install: Install):
    install("10.3.0")
    graph = colour_graph()
    graph.doc_string = "another"
    onnx.save(graph, bundle / "model.onnx")

    with pytest.raises(PlanError, match="holds the answers of another graph"):
        planning.plan(ordered(bundle))


@pytest.mark.parametrize("kept", [0, 100])
def test_cut_off_answers_are_refused(bundle, install: Install, kept):
    install("10.3.0")
    path = bundle / recorded.FILE
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(PlanError, match=r"found a damaged file .* Copy the bundle again"):
        planning.plan(ordered(bundle))


def test_what_tensorrt_says_is_in_the_refusal(bundle, install: Install):
    standin = install("10.3.0")

    def fail() -> None:
        raise MemoryError("no")

    standin.building = fail
    with pytest.raises(MemoryError):
        planning.plan(ordered(bundle))
    assert not (bundle.parent / "repository" / "colours").exists()


def test_the_times_of_kernels_are_kept_for_the_next_build(bundle, install: Install):
    install("10.3.0", Gpu(capability=(9, 0)))
    planning.plan(ordered(bundle))

    kept = bundle.parent / "repository" / ".timing-sm90-10.3.0"
    assert json.loads(kept.read_bytes())["layers"]
    # A folder would be a model to Triton.
    assert kept.is_file()


def test_no_tensorrt_is_said_in_one_sentence(bundle):
    with pytest.raises(EngineError, match="expected TensorRT's Python module"):
        planning.plan(ordered(bundle))


def test_no_gpu_is_said_in_one_sentence(bundle, install: Install):
    install("10.3.0", Gpu(status=100))

    with pytest.raises(EngineError, match="expected an NVIDIA GPU"):
        planning.plan(ordered(bundle))


def test_search_keeps_the_fastest_form_that_holds(bundle, install: Install, caplog):
    caplog.set_level("INFO")
    install("10.3.0")

    version, checked = planning.plan(ordered(bundle, search=True))

    tried = [record.message for record in caplog.records if "Parity:" in record.message]
    # The colour model has one Linear, which is no MatMul, and nothing that is rounded.
    assert len(tried) == 2
    assert sum("softmax in float16" in line for line in tried) == 1
    report = json.loads((version / "model.sm87.json").read_text())
    assert report["form"] == checked.form
    assert checked.form in {line.partition("\n")[0] for line in tried}


def test_a_form_that_is_refused_is_passed_over(bundle, install: Install):
    standin = install("10.3.0")
    build_all = standin.module.Builder.build_serialized_network
    built = []

    def first_fails(self, network, config):
        built.append(network)
        return None if len(built) == 1 else build_all(self, network, config)

    standin.module.Builder.build_serialized_network = first_fails

    _, checked = planning.plan(ordered(bundle, search=True))

    assert len(built) == 2
    assert checked.form == "matmul, rounded at gemm+add+bmm, softmax in float16"


def test_the_builder_gets_what_the_options_say(bundle, install: Install):
    install("10.3.0", Gpu(capability=(8, 0)))
    options = Options(
        body="float32", sparse=False, max_batch=8, best_batch=4, level=5, own_kernels=True
    )

    version, _ = planning.plan(ordered(bundle, options=options))

    built = (version / "model.sm80.plan").read_bytes()
    header, _ = standin_plan.unpack(built, "10.3.0", (8, 0))
    assert header["flags"] == []
    assert header["level"] == 5
    assert header["tactics"] > 0
    assert header["verbosity"] == "DETAILED"
    assert [shape[0] for shape in header["profile"]["image"]] == [1, 4, 8]
    assert header["strongly_typed"]


def sparse_product(pattern: str) -> onnx.ModelProto:
    """Return a network with one product whose weights are 2:4 along an axis, or almost."""
    weight = np.ones((12, 4), np.float32)
    if pattern == "wrong axis":
        weight[:, 1:3] = 0
    else:
        weight[1::4] = weight[2::4] = 0
    if pattern == "broken mask":
        weight[1, 0], weight[0:4, 1] = 0.5, 0
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 2, 2, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", 4])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([-1, 12]), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("broken mask", r"the card says 2:4, but in .* of weight more weights are not zero"),
        ("wrong axis", r"it does along the other axis\. Export the network again"),
        ("unknown opset", r"uses opset 30, expected 17 to 21\. Export it again"),
        ("truncated file", r"is not a valid ONNX file"),
        ("card of another version", r"this card has version 7, this release reads 1"),
    ],
)
def test_a_faulty_bundle_is_refused_before_anything_is_built(fault, says, tmp_path, install):
    standin = install("10.3.0")
    standin.building = lambda: pytest.fail("built")
    model = sparse_product(fault)
    if fault == "unknown opset":
        model.opset_import[0].version = 30
    sparse = Precision("float32", "float32", "2:4")
    card = dataclasses.replace(colour_card(size_px=2), precision=sparse)
    folder = write_bundle(tmp_path / "bundle", model, card)
    path = folder / "model.onnx"
    if fault == "truncated file":
        path.write_bytes(path.read_bytes()[:-20])
    if fault == "card of another version":
        text = (folder / "card.json").read_text()
        (folder / "card.json").write_text(text.replace('"card_version": 1', '"card_version": 7'))

    with pytest.raises(CompressError, match=says):
        planning.plan(ordered(folder))


def test_publishing_what_is_served_keeps_its_plans(bundle, install: Install, caplog):
    install("10.3.0", Gpu(capability=(9, 0)))
    version, _ = planning.plan(ordered(bundle, instances=2))

    again = publish(bundle, bundle.parent / "repository", "colours")

    assert again == version
    assert plans_of(version)["model.sm90.plan"].capability == "9.0"
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_publishing_another_network_says_which_plans_it_lacks(bundle, install: Install, caplog):
    install("10.3.0", Gpu(capability=(9, 0)))
    planning.plan(ordered(bundle))
    graph = colour_graph()
    graph.doc_string = "another"
    write_bundle(bundle, graph, colour_card())

    publish(bundle, bundle.parent / "repository", "colours")

    (said,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert said == (
        "colours: version 1 has model.sm90.plan, version 2 has not; build again with gpusq plan"
    )


def test_a_new_plan_keeps_the_instances_that_there_were(bundle, install: Install):
    install("10.3.0", Gpu(capability=(9, 0)))
    planning.plan(ordered(bundle, instances=3))
    install("10.3.0", Gpu(capability=(8, 0)))

    version, _ = planning.plan(ordered(bundle))

    assert config_of(version).instance_group[0].count == 3


@pytest.mark.parametrize("place", ["a file", "a model", "somebody else's"])
def test_a_place_that_takes_no_plan_is_refused_before_anything_is_built(
    bundle, install: Install, place
):
    standin = install("10.3.0")
    standin.building = lambda: pytest.fail("built")
    repository = bundle.parent / "repository"
    if place == "a file":
        repository.write_text("here")
    else:
        folder = repository if place == "a model" else repository / "colours"
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text('name: "theirs"')

    with pytest.raises(PlanError):
        planning.plan(ordered(bundle))
