"""Plans loaded and run, on a stand-in for the GPU that counts what is held on it."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.engine import Engine, EngineTensor
from contract.errors import EngineError
from tests import bundles
from tests.standin.evaluate import evaluator
from tests.standin.gpu import Gpu
from tests.standin.standin import Install, StandIn

pytest_plugins = ["tests.standin.fixtures"]
GRAPH = bundles.colour_graph()


def pictures(count: int, seed: int = 0) -> np.ndarray:
    shape = (count, bundles.SIZE_PX, bundles.SIZE_PX, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reference(images: np.ndarray) -> np.ndarray:
    return evaluator(GRAPH.SerializeToString())({"image": images})["scores"]


@pytest.fixture
def engine(standin: StandIn) -> Iterator[Engine]:
    loaded = Engine(standin.plan(GRAPH), "model.plan")
    yield loaded
    loaded.close()


def test_an_engine_says_what_it_takes_and_gives(engine: Engine):
    assert engine.inputs == (EngineTensor("image", "uint8", (-1, 8, 8, 3)),)
    assert engine.outputs == (EngineTensor("scores", "float32", (-1, 4)),)
    assert engine.max_batch == 8
    assert str(engine.device) == "Orin (8.7)"


@pytest.mark.parametrize("captures", [True, False])
@pytest.mark.parametrize("version", ["8.6.0", "11.4.1"])
def test_outputs_are_those_of_the_graph_for_every_batch_size(
    install: Install, version: str, captures: bool
):
    standin = install(version, gpu=Gpu(captures=captures))
    engine = Engine(standin.plan(GRAPH), "model.plan")

    for batch in (1, 3, 8, 1, 2, 5, 4, 3, 8):
        images = pictures(batch, seed=batch)
        outputs = engine.run(images)
        assert list(outputs) == ["scores"]
        assert np.array_equal(outputs["scores"], reference(images))

    # Calls for one picture after the first are launches of a graph, where there can be one.
    assert bool(standin.gpu.graph_launches) is captures
    engine.close()


def test_a_graph_is_recorded_once_a_batch_size(install: Install):
    standin = install("10.3.0")
    engine = Engine(standin.plan(GRAPH), "model.plan")

    for _ in range(3):
        engine.run(pictures(2))
        engine.run(pictures(1))

    assert len(standin.gpu.executables) == 2
    assert standin.gpu.graph_launches == 6
    # One more each, before it was recorded.
    assert standin.gpu.kernels == 8
    engine.close()


def test_the_batch_sizes_used_last_are_kept(install: Install):
    standin = install("10.3.0")
    engine = Engine(standin.plan(GRAPH), "model.plan")

    for batch in (1, 2, 3, 4, 1, 5):
        engine.run(pictures(batch))
    gc.collect()

    assert len(standin.gpu.executables) == len(standin.gpu.contexts) == 4
    before = standin.gpu.kernels
    engine.run(pictures(1))
    assert standin.gpu.kernels == before + 1
    engine.run(pictures(2))
    assert standin.gpu.kernels == before + 3
    engine.close()


def test_with_tensorrt_8_there_is_one_context_at_a_time(install: Install):
    standin = install("8.6.0")
    engine = Engine(standin.plan(GRAPH), "model.plan")

    for batch in (1, 2, 1, 8):
        images = pictures(batch)
        assert np.array_equal(engine.run(images)["scores"], reference(images))
        assert len(standin.gpu.contexts) == len(standin.gpu.executables) == 1
    engine.close()


def test_what_was_returned_is_not_written_over(engine: Engine):
    first = engine.run(pictures(1, seed=1))["scores"]
    kept = first.copy()

    engine.run(pictures(1, seed=2))

    assert np.array_equal(first, kept)


@pytest.fixture
def _threads_alternate() -> Iterator[None]:
    """Let threads take turns far more often than after 5 ms, in which a whole call is done."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_alternate")
def test_calls_from_many_threads_do_not_mix(engine: Engine):
    wrong: list[int] = []

    def ask(seed: int) -> None:
        images = pictures(1 + seed % 3, seed)
        answers = [engine.run(images)["scores"] for _ in range(10)]
        wrong.extend(seed for found in answers if not np.array_equal(found, reference(images)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


@pytest.mark.parametrize(("count", "said"), [(9, "batches of 1 to 8, got 9"), (0, "got 0")])
def test_a_batch_that_the_plan_does_not_take_is_refused(engine: Engine, count: int, said: str):
    with pytest.raises(EngineError, match=said):
        engine.run(pictures(count))
    with pytest.raises(EngineError, match=said):
        engine.time_ms(count, 1)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_pictures_of_another_form_are_refused(engine: Engine, images: np.ndarray):
    with pytest.raises(EngineError, match=r"expected pictures as uint8 \[-1, 8, 8, 3\]"):
        engine.run(images)


@pytest.mark.parametrize("captures", [True, False])
def test_every_call_is_timed(install: Install, captures: bool):
    standin = install(gpu=Gpu(captures=captures))
    engine = Engine(standin.plan(GRAPH), "model.plan")

    times = engine.time_ms(4, 5)

    assert len(times) == 5
    assert all(ms > 0 for ms in times)
    # One before it is recorded, one that keeps the GPU busy, five that were timed.
    assert standin.gpu.kernels == 7
    assert standin.gpu.events == {}
    engine.close()


def test_closing_frees_everything_and_nothing_twice(standin: StandIn):
    engine = Engine(standin.plan(GRAPH), "model.plan")
    engine.run(pictures(1))
    engine.run(pictures(8))
    engine.time_ms(1, 2)
    assert set(standin.gpu.held()) == {
        "device", "pinned", "streams", "executables", "engines", "contexts"
    }  # fmt: skip

    engine.close()
    engine.close()

    assert standin.gpu.held() == {}
    assert standin.gpu.faults == []
    with pytest.raises(EngineError, match=r"model\.plan is closed"):
        engine.run(pictures(1))


def other_version(standin: StandIn) -> bytes:
    return StandIn("8.5.2" if standin.major == 8 else "10.1.0").plan(GRAPH)


def other_gpu(standin: StandIn) -> bytes:
    return StandIn(standin.version, Gpu(capability=(8, 0))).plan(GRAPH)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (lambda s: s.plan(GRAPH)[:-100], "is damaged or cut off"),
        (lambda s: s.plan(GRAPH)[:30], "is damaged or cut off"),
        (lambda _s: b"", "is no plan"),
        (lambda _s: GRAPH.SerializeToString(), "is no plan"),
        (other_version, "was built by (TensorRT 8.5.2|another version of TensorRT)"),
        (other_gpu, "was built for a GPU of compute capability 8.0"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_sentence(standin: StandIn, plan, said: str):
    with pytest.raises(EngineError, match=said) as refused:
        Engine(plan(standin), "colours/1/model.plan")

    message = str(refused.value)
    assert message.startswith(f"expected a plan for TensorRT {standin.version} on Orin (8.7)")
    assert "colours/1/model.plan" in message
    assert message.endswith("Build it on this machine with 'gpusq plan'.")
    assert "\n" not in message
    del refused
    assert standin.gpu.held() == {}


def test_too_little_memory_is_said_and_nothing_stays_behind(install: Install):
    plan = StandIn().plan(GRAPH)
    standin = install(gpu=Gpu(memory_bytes=8 * 8 * 8 * 3 + 10))

    with pytest.raises(EngineError, match=r"cudaMalloc failed: .*smaller batch"):
        Engine(plan, "model.plan")

    assert standin.gpu.held() == {}


def test_a_plan_with_another_input_is_refused(install: Install):
    standin = install()
    graph = bundles.colour_graph()
    graph.graph.input[0].name = graph.graph.node[0].input[0] = "pixels_in"

    with pytest.raises(EngineError, match=r"take 'image' uint8 \[b, h, w, 3\].*pixels_in"):
        Engine(standin.plan(graph), "model.plan")

    assert standin.gpu.held() == {}


def test_without_tensorrt_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(EngineError, match="pip install tensorrt"):
        Engine(b"", "model.plan")


def test_without_a_gpu_tensorrt_is_not_even_asked(install: Install):
    # The runtime of the stand-in raises AssertionError there, the real one ends the process.
    install(gpu=Gpu(status=100))

    with pytest.raises(EngineError, match=r"expected an NVIDIA GPU .*error 100"):
        Engine(b"", "model.plan")


def test_neither_module_of_the_contract_needs_what_it_drives():
    for module in ("cuda", "engine", "engine_log"):
        text = (Path(__file__).parents[2] / "contract" / f"{module}.py").read_text()
        assert "import tensorrt" not in text
