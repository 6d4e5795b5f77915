"""What cannot become a plan is refused in a sentence, and nothing is installed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import CompressError, PlanError
from compress.plan import planning, recorded
from contract.card import Precision
from contract.errors import EngineError
from tests.bundles import colour_card, colour_graph, write_bundle
from tests.plan import planned
from tests.plan.planned import ordered
from tests.standin.gpu import Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return planned.write(tmp_path / "colours")


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


def test_a_build_that_dies_leaves_no_model(bundle, install: Install):
    standin = install("10.3.0")

    def fail() -> None:
        raise MemoryError("no")

    standin.building = fail
    with pytest.raises(MemoryError):
        planning.plan(ordered(bundle))
    assert not (bundle.parent / "repository" / "colours").exists()


def test_no_tensorrt_is_said_in_one_sentence(bundle, monkeypatch):
    # As if it were not installed, which it is beside the real wheel.
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="expected TensorRT's Python module"):
        planning.plan(ordered(bundle))


def test_a_tensorrt_whose_libraries_are_missing_names_them(bundle, monkeypatch, tmp_path):
    module = tmp_path / "tensorrt.py"
    module.write_text("raise ImportError('libcublas.so.12: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"does not load: libcublas\.so\.12.* Install the"):
        planning.plan(ordered(bundle))


def test_no_gpu_is_said_in_one_sentence(bundle, install: Install):
    install("10.3.0", Gpu(status=100))

    with pytest.raises(EngineError, match="expected an NVIDIA GPU"):
        planning.plan(ordered(bundle))


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


@pytest.mark.parametrize(
    "change",
    [
        lambda named: named.pop("answer.scores"),
        lambda named: named.update({"answer.scores": named["answer.scores"][:2]}),
        lambda named: named.update({"answer.scores": named["answer.scores"][:, :2]}),
        lambda named: named.update({"image": named["image"][:0]}),
        lambda named: named.update({"image": named["image"][:, :4]}),
        lambda named: named.update({"image": named["image"].astype(np.float32)}),
    ],
    ids=["no answer", "fewer", "fewer classes", "no picture", "other size", "other type"],
)
def test_answers_that_do_not_fit_the_graph_are_refused_before_anything_is_built(
    bundle, install: Install, change
):
    standin = install("10.3.0")
    standin.building = lambda: pytest.fail("built")
    path = bundle / recorded.FILE
    with np.load(path) as stored:
        named = {name: stored[name] for name in stored.files}
    change(named)
    np.savez(path, **named)

    with pytest.raises(PlanError, match=r"answers\.npz does not fit the graph beside it: expected"):
        planning.plan(ordered(bundle))
