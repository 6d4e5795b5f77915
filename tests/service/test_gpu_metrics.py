"""What GPUs draw, by a library and files that stand in for NVIDIA's and the kernel's."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.metrics import Metrics
from service.observe import gpu, nvml
from service.observe.gpu import Gpus
from service.observe.nvml import Nvml

NOT_SUPPORTED = 3


class Function:
    """One function of the library; it fills in what the caller points to."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __call__(self, *arguments: Any) -> int:
        return int(self._answer(*arguments))


class Library:
    """Two GPUs; the second tells its memory only, as one in a Jetson does."""

    def __init__(self, count: int = 2, status: int = 0) -> None:
        self.nvmlInit_v2 = Function(lambda: status)
        self.nvmlDeviceGetCount_v2 = Function(lambda at: put(at, count))
        self.nvmlDeviceGetHandleByIndex_v2 = Function(lambda index, at: put(at, 1 + index))
        self.nvmlDeviceGetName = Function(self._name)
        self.nvmlDeviceGetPowerUsage = Function(lambda d, at: first(d) or put(at, 71_500))
        self.nvmlDeviceGetTotalEnergyConsumption = Function(
            lambda d, at: first(d) or put(at, 5_000_000_000_000)
        )
        self.nvmlDeviceGetMemoryInfo = Function(self._memory)
        self.nvmlDeviceGetUtilizationRates = Function(self._utilization)

    @staticmethod
    def _name(device: Any, text: Any, length: int) -> int:
        assert length >= 64
        text.value = f"GPU {device.value}".encode()
        return 0

    @staticmethod
    def _memory(_device: Any, at: Any) -> int:
        at._obj.total, at._obj.free, at._obj.used = 80 << 30, 50 << 30, 30 << 30
        return 0

    @staticmethod
    def _utilization(device: Any, at: Any) -> int:
        if status := first(device):
            return status
        at._obj.gpu, at._obj.memory = 37, 12
        return 0


def first(device: Any) -> int:
    """Succeed for the first GPU alone."""
    return 0 if device.value == 1 else NOT_SUPPORTED


def put(at: Any, value: int) -> int:
    at._obj.value = value
    return 0


def told(gpus: Gpus) -> set[str]:
    """Return the lines that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(gpus)
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_each_gpu_tells_what_it_knows_and_is_silent_of_the_rest():
    assert told(Gpus(Nvml(Library()), {})) == {
        'gpusq_gpu_power_watts{gpu="0",name="GPU 1"} 71.5',
        'gpusq_gpu_energy_joules_total{gpu="0",name="GPU 1"} 5e+09',
        'gpusq_gpu_utilization_ratio{gpu="0",name="GPU 1"} 0.37',
        'gpusq_gpu_memory_used_bytes{gpu="0",name="GPU 1"} 3.221225472e+10',
        'gpusq_gpu_memory_bytes{gpu="0",name="GPU 1"} 8.589934592e+10',
        'gpusq_gpu_memory_used_bytes{gpu="1",name="GPU 2"} 3.221225472e+10',
        'gpusq_gpu_memory_bytes{gpu="1",name="GPU 2"} 8.589934592e+10',
    }


def test_a_driver_without_gpus_and_one_that_fails_are_none():
    assert len(Nvml(Library(count=0))) == 0
    with pytest.raises(OSError, match="nvmlInit_v2 failed with 9"):
        Nvml(Library(status=9))


def test_a_library_that_lacks_a_function_is_none():
    library = Library()
    del library.nvmlDeviceGetMemoryInfo
    with pytest.raises(OSError, match="has no nvmlDeviceGetMemoryInfo"):
        Nvml(library)


def sensor(folder: Path, name: str, **files: str) -> None:
    folder.mkdir(parents=True)
    for file, text in {"name": name, **files}.items():
        (folder / file).write_text(f"{text}\n", encoding="utf-8")


@pytest.fixture
def sensors(tmp_path: Path) -> Path:
    """As the kernel lists them on an AGX Orin."""
    rails = {
        "in1_label": "VDD_GPU_SOC", "in1_input": "19000", "curr1_input": "420",
        "in2_label": "VDD_CPU_CV", "in2_input": "19000", "curr2_input": "40",
        "in3_label": "NC", "in3_input": "0", "curr3_input": "0",
    }  # fmt: skip
    sensor(tmp_path / "hwmon0", "tmp451", in1_label="not a rail")
    sensor(tmp_path / "hwmon1", "ina3221", **rails)
    return tmp_path


def test_a_jetson_tells_its_rails(sensors: Path):
    found = gpu.find(sensors)

    assert found is not None
    # 19 V times 0.42 A and 0.04 A.
    assert told(found) == {
        'gpusq_power_rail_watts{rail="VDD_GPU_SOC"} 7.98',
        'gpusq_power_rail_watts{rail="VDD_CPU_CV"} 0.76',
    }


def test_a_rail_that_cannot_be_read_is_left_out(sensors: Path):
    found = gpu.find(sensors)
    assert found is not None
    (sensors / "hwmon1" / "curr1_input").unlink()
    (sensors / "hwmon1" / "curr2_input").write_text("nonsense", encoding="utf-8")

    assert told(found) == set()


def test_a_machine_without_either_has_no_such_metric_and_says_so_at_debug_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has NVIDIA's driver")
    caplog.set_level("INFO")

    assert nvml.find() is None
    assert gpu.find(tmp_path) is None
    assert b"gpusq_gpu" not in Metrics("fake").render()
    assert caplog.records == []
