"""What a GPU draws while it works: by NVML, or by tegrastats on a Jetson.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from compress.errors import PlanError

# As tegrastats writes rails: name, then milliwatts now and on average since it started.
_RAIL: Final = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)mW/\d+mW")
# Rails that hold all others, where a board has one.
_WHOLE: Final = ("VDD_IN", "POM_5V_IN")
_EVERY_MS: Final = 100


class Meter(Protocol):
    """Something that knows what the GPU has drawn."""

    @property
    def name(self) -> str:
        """What is measured, and by what."""

    def joules(self, work: Callable[[], object]) -> float:
        """Return what was drawn while some work was done."""


def find_meter(device: int | str | None = None) -> Meter:
    """Find what measures energy on this machine.

    Args:
        device: Index or UUID of the GPU for NVML; None takes the one that CUDA takes.

    Raises:
        PlanError: There is nothing.
    """
    if shutil.which("tegrastats"):
        return Tegrastats()
    return Nvml(_visible() if device is None else device)


def _visible() -> int | str:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if not first:
        return 0
    return int(first) if first.isdecimal() else first


class Nvml:
    """The counter of the whole board that NVIDIA's management library reads."""

    name = "the whole board's counter, by NVML"

    def __init__(self, device: int | str) -> None:
        try:
            pynvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise PlanError(
                "energy is read by NVML; install nvidia-ml-py to have it measured"
            ) from error
        self.nvml = pynvml
        try:
            pynvml.nvmlInit()
            find = (
                pynvml.nvmlDeviceGetHandleByIndex
                if isinstance(device, int)
                else pynvml.nvmlDeviceGetHandleByUUID
            )
            self.device = find(device)
            self._millijoules()
        except pynvml.NVMLError as error:
            raise PlanError(f"NVML does not tell the energy of this GPU: {error}") from error

    def _millijoules(self) -> int:
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.device))

    def joules(self, work: Callable[[], object]) -> float:
        """Return what the board drew while some work was done."""
        before = self._millijoules()
        work()
        return (self._millijoules() - before) / 1000


class Tegrastats:
    """The power rails of a Jetson, read ten times a second."""

    name = "the module's power rails, by tegrastats"

    def joules(self, work: Callable[[], object]) -> float:
        """Return mean power times time while some work was done.

        Raises:
            PlanError: tegrastats told no power.
        """
        with _reading() as stop:
            began = time.monotonic()
            work()
            seconds = time.monotonic() - began
            said = stop()
        powers = [watts for line in said.splitlines() if (watts := module_watts(line)) is not None]
        if not powers:
            raise PlanError(f"tegrastats told no power rail; it said {said[:80]!r}")
        return seconds * sum(powers) / len(powers)


@contextmanager
def _reading() -> Iterator[Callable[[], str]]:
    command = ["tegrastats", "--interval", str(_EVERY_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603

        def stop() -> str:
            process.terminate()
            return process.communicate()[0]

        try:
            yield stop
        finally:
            process.terminate()


def module_watts(line: str) -> float | None:
    """Read the power of a whole module off a line of tegrastats; None where it tells none.

    Where a board has a rail for all, it counts alone; otherwise the rails are added up.

    >>> module_watts("RAM 1/2MB VDD_GPU_SOC 2000mW/1900mW VDD_CPU_CV 400mW/400mW")
    2.4
    >>> module_watts("GR3D_FREQ 99% VDD_IN 5000mW/4000mW VDD_CPU_GPU_CV 900mW/800mW")
    5.0
    """
    rails = {name: int(now) / 1000 for name, now in _RAIL.findall(line)}
    whole = [rails[name] for name in _WHOLE if name in rails]
    if whole:
        return whole[0]
    return sum(rails.values()) if rails else None
