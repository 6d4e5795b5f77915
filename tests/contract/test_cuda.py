"""The CUDA runtime by ctypes: which library is taken, and what happens when a call fails."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from contract import cuda
from contract.errors import EngineError
from tests.standin.cudart import FILE, Cudart
from tests.standin.gpu import Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]


class Libraries:
    """What ``ctypes.CDLL`` finds, by a part of the name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **found: Gpu) -> None:
        self.asked: list[str] = []
        self._found = {name.replace("_", "."): Cudart(gpu) for name, gpu in found.items()}
        monkeypatch.setattr(ctypes, "CDLL", self._load)
        cuda.runtime.cache_clear()

    def _load(self, name: str) -> Cudart:
        self.asked.append(name)
        for part, library in self._found.items():
            if part in name:
                return library
        raise OSError(name)


@pytest.fixture(autouse=True)
def _no_runtime_is_remembered():
    yield
    cuda.runtime.cache_clear()


def test_the_device_is_described(install: Install):
    install(gpu=Gpu(capability=(9, 0), name="NVIDIA H100", memory_bytes=1 << 36, cuda=12020))

    device = cuda.runtime().device()

    assert (device.name, device.capability) == ("NVIDIA H100", (9, 0))
    assert device.memory_bytes == 1 << 36
    assert device.driver.endswith("CUDA 12.2")
    assert str(device) == "NVIDIA H100 (9.0)"


def test_one_runtime_serves_the_process(install: Install):
    install()

    assert cuda.runtime() is cuda.runtime()


def test_a_runtime_that_is_newer_than_the_driver_gives_way_to_one_that_works(
    monkeypatch: pytest.MonkeyPatch,
):
    Libraries(monkeypatch, so_13=Gpu(status=35), so_12=Gpu(name="A100", capability=(8, 0)))

    assert cuda.runtime().device().name == "A100"


def test_where_none_works_the_first_one_says_why(monkeypatch: pytest.MonkeyPatch):
    Libraries(monkeypatch, so_13=Gpu(status=35), so_12=Gpu(status=100))

    with pytest.raises(EngineError, match="error 35"):
        cuda.runtime().device()


def test_a_runtime_in_a_wheel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    (folder / FILE).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    libraries = Libraries(monkeypatch, nvidia=Gpu())

    assert cuda.runtime().device().name == "Orin"
    assert libraries.asked[-1] == str(folder / FILE)


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    Libraries(monkeypatch)

    with pytest.raises(EngineError, match="pip install nvidia-cuda-runtime-cu12"):
        cuda.runtime()


def test_a_library_from_before_cuda_11_4_is_refused():
    old = Cudart(Gpu())
    del old.cudaGraphInstantiateWithFlags

    with pytest.raises(EngineError, match=r"CUDA 11\.4 or later.*cudaGraphInstantiateWithFlags"):
        cuda.Runtime(old)


def test_work_that_cannot_be_recorded_leaves_the_stream_usable():
    gpu = Gpu()
    runtime = cuda.Runtime(Cudart(gpu))
    stream = runtime.make_stream()

    def waiting() -> bool:
        with pytest.raises(EngineError, match="cudaStreamSynchronize"):
            runtime.wait(stream)
        return True

    assert runtime.capture(stream, waiting) is None
    assert runtime.capture(stream, lambda: False) is None
    runtime.wait(stream)
    graph = runtime.capture(stream, lambda: True)
    assert graph is not None
    runtime.launch(graph, stream)
    runtime.destroy_graph(graph)
    runtime.destroy_stream(stream)
    assert gpu.held() == {}


def test_an_exception_in_recorded_work_ends_the_recording():
    gpu = Gpu()
    runtime = cuda.Runtime(Cudart(gpu))
    stream = runtime.make_stream()

    with pytest.raises(ZeroDivisionError):
        runtime.capture(stream, lambda: bool(1 // 0))

    runtime.wait(stream)
    assert gpu.graphs == {}


def test_the_driver_tells_its_version(tmp_path: Path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")

    assert cuda._driver_version(file) == "535.104.05"
    assert cuda._driver_version(tmp_path / "none") == ""


def test_a_real_library_without_a_gpu_says_so_in_one_sentence():
    try:
        found = cuda.runtime()
    except EngineError:
        pytest.skip("there is no libcudart on this machine")
    if not found.count_status():
        pytest.skip("this machine has a GPU")

    with pytest.raises(EngineError, match="expected an NVIDIA GPU"):
        found.device()
