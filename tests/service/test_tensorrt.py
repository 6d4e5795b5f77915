"""Plans in the repository, run in the service's process on a stand-in for the GPU."""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from contract import plan_card
from contract.plan_card import PlanCard
from service import __main__ as command
from service.app import create_app
from service.errors import StartError
from service.executors import choice
from service.executors.embedded import EmbeddedExecutor
from service.settings import Settings
from tests import bundles
from tests.conftest import Serve, encoded
from tests.service.asking import label, post, problem
from tests.standin.gpu import Gpu
from tests.standin.standin import Install, StandIn

pytest_plugins = ["tests.standin.fixtures"]

CARD = PlanCard("10.3.0", "8.7", "Orin", "540.4.0", ("SPARSE_WEIGHTS",), 8, "ab" * 32)
A100 = dataclasses.replace(CARD, capability="8.0", gpu="A100")


def model(repository: Path, name: str, onnx_too: bool = False, **plans: bytes) -> Path:
    """Write a model with plans: ``orin=`` is the content of ``orin.plan``."""
    folder = bundles.write_model(repository, name)
    for stem, plan in plans.items():
        (folder / "1" / f"{stem}.plan").write_bytes(plan)
    if not onnx_too:
        (folder / "1" / "model.onnx").unlink()
    return folder


def configure(folder: Path, text: str = "", **cards: PlanCard) -> None:
    """Add lines to a configuration, and the cards of plans: ``orin=`` is that of ``orin.plan``."""
    path = folder / "config.pbtxt"
    config = text_format.Parse(path.read_text() + text, model_config_pb2.ModelConfig())
    named = {f"{stem}.plan": card for stem, card in cards.items()}
    for key, value in plan_card.to_parameters(named).items() if cards else ():
        config.parameters[key].string_value = value
    path.write_text(text_format.MessageToString(config))


def load(repository: Path, executor: str = "tensorrt") -> EmbeddedExecutor:
    loaded = choice.load(Settings(repository=repository, executor=executor))
    assert isinstance(loaded, EmbeddedExecutor)
    return loaded


def why(repository: Path, name: str = "colours") -> str:
    executor = load(repository)
    executor.close()
    assert executor.models == {}
    return executor.unavailable[name]


@pytest.fixture
def here(install: Install) -> StandIn:
    return install("10.3.0")


@pytest.fixture
def plan(here: StandIn) -> bytes:
    return here.plan(bundles.colour_graph())


def test_pictures_are_answered_over_http_by_a_plan(
    standin: StandIn, serve: Serve, tmp_path: Path, red_jpeg: bytes
):
    model(tmp_path, "colours", model=standin.plan(bundles.colour_graph()))
    model(tmp_path, "broken", model=b"no plan")
    settings = Settings(repository=tmp_path, executor="tensorrt", deadline_s=30)

    with serve(create_app(settings, choice.load(settings))) as client:
        answer = post(client, red_jpeg)
        described = {entry["name"]: entry for entry in client.get("/v1/models").json()["models"]}
        refused = post(client, red_jpeg, model="broken")

    assert label(answer) == "red"
    scores = [entry["score"] for entry in answer.json()["predictions"]]
    # A JPEG's red is not quite red; the answer is rounded.
    assert scores == pytest.approx(sorted(bundles.colour_scores(1, 0, 0), reverse=True), abs=1e-2)
    assert described["colours"]["executor"] == "tensorrt"
    assert "model.plan is no plan" in problem(refused, 503, "model_unavailable")["detail"]
    gc.collect()
    assert standin.gpu.held() == {}
    assert standin.gpu.faults == []


def test_many_at_once_each_get_their_own_answer(
    here: StandIn, plan: bytes, serve: Serve, tmp_path: Path
):
    model(tmp_path, "colours", model=plan)
    model(tmp_path, "more", model=plan)
    settings = Settings(repository=tmp_path, executor="tensorrt", deadline_s=30)
    pictures = {c: encoded(Image.new("RGB", (8, 8), c)) for c in ("red", "blue", "black")}

    def ask(client: httpx.Client, number: int) -> bool:
        colour = list(pictures)[number % 3]
        asked = ("colours", "more")[number % 2]
        return label(post(client, pictures[colour], model=asked)) == colour

    app = create_app(settings, choice.load(settings))
    with serve(app) as client, ThreadPoolExecutor(8) as threads:
        right = list(threads.map(lambda number: ask(client, number), range(48)))

    assert all(right)


def test_a_model_is_warm_when_it_is_ready(here: StandIn, plan: bytes, tmp_path: Path):
    model(tmp_path, "colours", model=plan)

    executor = load(tmp_path)

    # A request for one picture launches the graph that is there already.
    assert len(here.gpu.executables) == 1
    executor.close()


def test_a_gpu_that_fails_is_an_internal_error_and_the_log_says_why(
    here: StandIn, plan: bytes, serve: Serve, tmp_path: Path, red_jpeg: bytes, caplog
):
    model(tmp_path, "colours", model=plan)
    settings = Settings(repository=tmp_path, executor="tensorrt", deadline_s=30)

    with serve(create_app(settings, choice.load(settings))) as client:
        here.gpu.streams.clear()
        problem(post(client, red_jpeg), 500, "internal")

    assert "the CUDA call cudaMemcpyAsync failed" in caplog.text


def test_the_plan_for_this_gpu_is_chosen_as_triton_does(here: StandIn, plan: bytes, tmp_path: Path):
    other = StandIn("10.3.0", Gpu(capability=(8, 0))).plan(bundles.colour_graph())
    folder = model(tmp_path, "colours", orin=plan, a100=other)
    lines = 'default_model_filename: "a100.plan"\n'
    configure(folder, lines, orin=CARD, a100=A100)
    assert "a100.plan: expected a plan for TensorRT 10.3.0 and compute" in why(tmp_path)

    configure(folder, 'cc_model_filenames { key: "8.7" value: "orin.plan" }\n')

    executor = load(tmp_path)
    assert list(executor.models) == ["colours"]
    executor.close()


def test_a_plan_beside_an_onnx_file_is_used_by_tensorrt_and_passed_over_by_others(
    here: StandIn, plan: bytes, tmp_path: Path
):
    folder = model(tmp_path, "colours", onnx_too=True, model=plan)

    for named in ("", 'default_model_filename: "model.plan"\n'):
        configure(folder, named)
        for executor in ("tensorrt", "openvino"):
            loaded = load(tmp_path, executor)
            assert (loaded.name, list(loaded.models)) == (executor, ["colours"])
            loaded.close()


def test_a_plan_that_its_card_excludes_is_refused_before_it_is_read(
    here: StandIn, plan: bytes, tmp_path: Path
):
    folder = model(tmp_path, "colours", model=plan)
    configure(folder, model=dataclasses.replace(CARD, tensorrt="8.6.0"))

    # TensorRT itself would take it.
    assert why(tmp_path) == (
        "model.plan: expected a plan for TensorRT 10.3.0 and compute capability 8.7, this one was "
        "built by TensorRT 8.6.0 for compute capability 8.7 (Orin). Build it on this machine with "
        "'gpusq plan'."
    )


def test_a_plan_that_tensorrt_refuses_is_unavailable_with_one_sentence(
    here: StandIn, tmp_path: Path
):
    newer = StandIn("11.4.1").plan(bundles.colour_graph())
    model(tmp_path, "colours", model=newer)
    model(tmp_path, "cut", model=here.plan(bundles.colour_graph())[:-9])

    assert "model.plan was built by another version of TensorRT" in why(tmp_path)
    assert "model.plan is damaged or cut off" in why(tmp_path, "cut")


def test_a_model_without_a_plan_says_what_to_do(here: StandIn, tmp_path: Path):
    model(tmp_path, "colours", onnx_too=True)

    assert why(tmp_path) == (
        "version 1 has no model.plan for Orin (8.7). Build one with 'gpusq plan', or serve the "
        "ONNX file with GPUSQ_EXECUTOR=openvino."
    )


def test_a_card_of_a_plan_that_cannot_be_read_is_said(here: StandIn, plan: bytes, tmp_path: Path):
    folder = model(tmp_path, "colours", model=plan)
    configure(folder, 'parameters { key: "gpusq_plans" value { string_value: "[]" } }\n')

    assert why(tmp_path).startswith("config.pbtxt: the parameter 'gpusq_plans' must be an object")


def test_a_plan_that_contradicts_its_configuration_leaves_nothing_on_the_gpu(
    here: StandIn, tmp_path: Path
):
    model(tmp_path, "colours", model=here.plan(bundles.colour_graph(5)))

    executor = load(tmp_path)

    assert "promises output 'scores' float32 [-1, 4]" in executor.unavailable["colours"]
    gc.collect()
    assert here.gpu.held() == {}
    executor.close()


def test_the_other_executors_say_which_one_runs_plans(tmp_path: Path):
    model(tmp_path, "colours", model=b"")

    executor = load(tmp_path, "onnxruntime")

    assert "GPUSQ_EXECUTOR=tensorrt" in executor.unavailable["colours"]
    executor.close()


def test_tensorrt_that_is_asked_for_and_missing_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    bundles.write_model(tmp_path, "colours")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setenv("GPUSQ_EXECUTOR", "tensorrt")
    monkeypatch.setattr(sys, "argv", ["service", "--repository", str(tmp_path), "--port", "0"])

    assert command.main() == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "GPUSQ_EXECUTOR=tensorrt cannot be used: expected TensorRT's Python module" in said


def test_tensorrt_without_a_gpu_ends_the_start(install: Install, tmp_path: Path):
    install(gpu=Gpu(status=100))
    bundles.write_model(tmp_path, "colours")

    with pytest.raises(StartError, match="expected an NVIDIA GPU"):
        load(tmp_path)


def chosen(repository: Path) -> tuple[str, list[str]]:
    executor = load(repository, "auto")
    executor.close()
    return executor.name, sorted(executor.models)


def test_left_to_itself_tensorrt_is_taken_where_every_model_has_a_plan(
    here: StandIn, plan: bytes, tmp_path: Path
):
    model(tmp_path, "colours", onnx_too=True, model=plan)
    model(tmp_path, "more", model=plan)

    assert chosen(tmp_path) == ("tensorrt", ["colours", "more"])


def test_left_to_itself_no_model_is_lost_for_the_plan_of_another(
    here: StandIn, plan: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model(tmp_path, "colours", onnx_too=True, model=plan)
    model(tmp_path, "more", onnx_too=True)

    with caplog.at_level(logging.WARNING):
        assert chosen(tmp_path) == ("openvino", ["colours", "more"])
    assert "these have no plan for Orin (8.7): more." in caplog.text


def test_left_to_itself_plans_for_another_gpu_are_passed_over(
    here: StandIn, plan: bytes, tmp_path: Path
):
    folder = model(tmp_path, "colours", onnx_too=True, model=plan)
    configure(folder, model=A100)

    assert chosen(tmp_path) == ("openvino", ["colours"])


def test_left_to_itself_plans_without_tensorrt_are_passed_over_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    model(tmp_path, "colours", onnx_too=True, model=b"")
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with caplog.at_level(logging.INFO):
        assert chosen(tmp_path) == ("openvino", ["colours"])
    assert "the plans of the repository are not used: expected TensorRT's" in caplog.text


def test_without_a_plan_tensorrt_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    model(tmp_path, "colours", onnx_too=True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with caplog.at_level(logging.INFO):
        assert chosen(tmp_path) == ("openvino", ["colours"])
    assert "TensorRT" not in caplog.text
