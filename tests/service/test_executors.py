"""The same tests over every embedded runtime."""

import asyncio
import builtins
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import ModelError, StartError
from service.executors import choice
from service.executors.embedded import EmbeddedExecutor
from service.executors.executor import Images
from service.settings import Settings
from tests import bundles

RUNTIMES = sorted(choice.RUNTIMES)


def load(runtime: str, repository: Path) -> EmbeddedExecutor:
    return EmbeddedExecutor(runtime, choice.RUNTIMES[runtime](), repository)


def infer(executor: EmbeddedExecutor, model: str, images: Images) -> np.ndarray:
    return asyncio.run(executor.infer(model, images))["scores"]


def plain(*colours: tuple[int, int, int]) -> Images:
    shape = (bundles.SIZE_PX, bundles.SIZE_PX, 3)
    return np.stack([np.broadcast_to(np.uint8(colour), shape) for colour in colours])


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_scores_are_what_the_hand_computes(runtime: str, repository: Path):
    executor = load(runtime, repository)

    scores = infer(executor, "colours", plain((255, 0, 0), (51, 102, 255)))

    expected = [bundles.colour_scores(1, 0, 0), bundles.colour_scores(0.2, 0.4, 1)]
    # float32 against float64
    assert scores == pytest.approx(np.array(expected), abs=1e-5)
    executor.close()


def test_the_runtimes_agree(repository: Path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    executors = [load(runtime, repository) for runtime in RUNTIMES]

    first, second = (infer(executor, "colours", images) for executor in executors)

    # The promise of docs/settings.md: the executor does not change the answer.
    assert np.abs(first - second).max() < 1e-3
    for executor in executors:
        executor.close()


def test_outputs_have_the_names_of_the_file(runtime: str, tmp_path: Path):
    # OpenVINO indexes in int32: the cast is none, and its input is the output too.
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["floats"], ["best"], axis=3, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.INT32),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 2, 2, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.INT32, ["b", 2, 2])
    graph = helper.make_graph(nodes, "labels", [image], [labels])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "model.onnx")

    network = choice.RUNTIMES[runtime]()(tmp_path / "model.onnx")

    assert [output.name for output in network.outputs] == ["labels"]
    answer = network.run(np.array([[[[1, 2, 0], [7, 0, 0]]] * 2], np.uint8))
    assert answer["labels"].tolist() == [[[1, 0]] * 2]


def test_a_broken_model_does_not_take_down_the_others(runtime: str, repository: Path):
    executor = load(runtime, repository)

    assert sorted(executor.models) == ["colours", "more-colours"]
    assert list(executor.unavailable) == ["broken"]
    assert "refuses model.onnx" in executor.unavailable["broken"]
    assert str(repository) not in executor.unavailable["broken"]
    executor.close()


def test_a_batch_of_the_wrong_size_fails_with_a_reason(runtime: str, repository: Path):
    executor = load(runtime, repository)

    with pytest.raises(ModelError, match="failed"):
        infer(executor, "colours", np.zeros((1, 4, 8, 3), np.uint8))

    executor.close()


def test_a_graph_that_contradicts_its_configuration_is_refused(runtime: str, tmp_path: Path):
    bundles.write_model(tmp_path, "colours", bundles.colour_graph(5))

    executor = load(runtime, tmp_path)

    assert "promises output 'scores' float32 [-1, 4]" in executor.unavailable["colours"]
    executor.close()


def test_openvino_is_preferred(repository: Path):
    executor = choice.load(Settings(repository=repository))

    assert executor.name == "openvino"
    executor.close()


def test_without_openvino_onnx_runtime_is_used_and_the_log_says_why(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    really_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "service.executors.openvino":
            raise ImportError("No module named 'openvino'")
        return really_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)

    with caplog.at_level(logging.WARNING):
        executor = choice.load(Settings(repository=repository))

    assert executor.name == "onnxruntime"
    assert "No module named 'openvino'" in caplog.text
    executor.close()


@pytest.mark.parametrize("make", [lambda p: p / "absent", lambda p: p])
def test_a_repository_without_models_is_refused(make, tmp_path: Path):
    with pytest.raises(StartError, match="gpusq compress"):
        choice.load(Settings(repository=make(tmp_path)))


def test_runs_side_by_side_answer_each_its_own_picture(runtime: str, repository: Path):
    settings = Settings(executor=runtime, repository=repository, cpu_concurrency=3)
    executor = choice.load(settings)
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8, 3)).astype(np.uint8)

    async def ask_all():
        return await asyncio.gather(*(executor.infer("colours", one) for one in images))

    found = [answer["scores"][0] for answer in asyncio.run(ask_all())]

    assert executor.concurrency == 3
    means = images.mean(axis=(1, 2, 3)) / 255
    expected = [bundles.colour_scores(*mean) for mean in means]
    # float32 against float64
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-5)
    executor.close()
