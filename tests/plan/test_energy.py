"""Energy as NVML and tegrastats tell it, by programs that stand in for both."""

import os
import stat
import sys
import time
from types import ModuleType

import pytest

from compress.errors import PlanError
from compress.plan.energy import Nvml, Tegrastats, find_meter, module_watts

# As JetPack 6 writes a line of an AGX Orin.
ORIN = (
    "11-25-2026 10:00:00 RAM 4722/62841MB (lfb 11467x4MB) SWAP 0/31420MB (cached 0MB) CPU "
    "[2%@729,0%@729] GR3D_FREQ 98% cpu@47.6C tj@48C VDD_GPU_SOC 7997mW/7997mW VDD_CPU_CV "
    "799mW/799mW VIN_SYS_5V0 4430mW/4430mW"
)


class NVMLError(Exception):
    pass


def nvml(counts, *, fails=False):
    """NVIDIA's management library with a counter that reads ``counts``."""
    module = ModuleType("pynvml")
    asked = []
    values = iter(counts)

    def read(_device):
        if fails:
            raise NVMLError("Not Supported")
        return next(values)

    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = asked.append
    module.nvmlDeviceGetHandleByUUID = asked.append
    module.nvmlDeviceGetTotalEnergyConsumption = read
    return module, asked


def test_nvml_counts_what_was_drawn_while_work_was_done(monkeypatch):
    module, _ = nvml([5_000, 5_000, 11_500])
    monkeypatch.setitem(sys.modules, "pynvml", module)
    done = []

    joules = Nvml(0).joules(lambda: done.append(1))

    assert joules == 6.5
    assert done == [1]


@pytest.mark.parametrize(("visible", "device"), [("", 0), ("2,3", 2), ("GPU-1a2b", "GPU-1a2b")])
def test_nvml_reads_the_gpu_that_cuda_uses(monkeypatch, tmp_path, visible, device):
    module, asked = nvml([1])
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("PATH", str(tmp_path))

    find_meter()

    assert asked == [device]


def test_without_the_library_the_reason_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PlanError, match="install nvidia-ml-py"):
        find_meter()


def test_a_gpu_without_a_counter_is_named(monkeypatch):
    module, _ = nvml([], fails=True)
    monkeypatch.setitem(sys.modules, "pynvml", module)

    with pytest.raises(PlanError, match="does not tell the energy of this GPU: Not Supported"):
        Nvml(0)


def test_the_rails_of_a_module_are_added_up():
    assert module_watts(ORIN) == pytest.approx(7.997 + 0.799 + 4.430)


def test_a_line_without_rails_tells_no_power():
    assert module_watts("RAM 4722/62841MB SWAP 0/31420MB") is None


def tegrastats(folder, line, monkeypatch):
    program = folder / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile true; do echo '{line}'; sleep 0.02; done\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_jetson_is_measured_by_power_times_time(monkeypatch, tmp_path):
    tegrastats(tmp_path, ORIN, monkeypatch)
    meter = find_meter()
    began = time.monotonic()

    joules = meter.joules(lambda: time.sleep(0.3))

    taken = time.monotonic() - began
    assert isinstance(meter, Tegrastats)
    watts = 7.997 + 0.799 + 4.430
    assert 0.3 * watts <= joules <= taken * watts


def test_a_jetson_that_tells_no_power_says_what_it_told(monkeypatch, tmp_path):
    tegrastats(tmp_path, "RAM 1/2MB", monkeypatch)

    with pytest.raises(PlanError, match="told no power rail; it said 'RAM 1/2MB"):
        find_meter().joules(lambda: time.sleep(0.2))
