"""What GPUs draw and do, asked whenever Prometheus asks: by NVML, or a Jetson's power rails."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from service.observe import nvml
from service.observe.nvml import Nvml, Reading

logger = logging.getLogger(__name__)

_SENSORS: Final = Path("/sys/class/hwmon")
# The sensor behind the power rails of every Jetson up to the AGX Orin; it has three channels.
_SENSOR: Final = "ina3221"
_CHANNELS: Final = (1, 2, 3)
_LABELS: Final = ("gpu", "name")


class Gpus(Collector):
    """Metrics of the GPUs of one machine; those that a GPU does not tell are absent.

    Args:
        library: What asks them; None where there is none.
        rails: The power rails of a Jetson by name, each with its current and its voltage.
    """

    def __init__(self, library: Nvml | None, rails: Mapping[str, tuple[Path, Path]]) -> None:
        self._library = library
        self._rails = rails

    def collect(self) -> Iterable[Metric]:
        """Ask for everything."""
        readings = self._library.read() if self._library is not None else []
        yield from (family for family in _families(readings) if family.samples)
        if self._rails:
            family = GaugeMetricFamily(
                "gpusq_power_rail_watts", "What one rail of a Jetson draws.", labels=["rail"]
            )
            for rail, (current_ma, voltage_mv) in self._rails.items():
                if (watts := _watts(current_ma, voltage_mv)) is not None:
                    family.add_metric([rail], watts)
            yield family


def find(sensors: Path = _SENSORS) -> Gpus | None:
    """Return what to watch on this machine; None where there is nothing.

    Args:
        sensors: Where the kernel lists them.
    """
    library, found = nvml.find(), rails(sensors)
    return Gpus(library, found) if library is not None or found else None


def rails(sensors: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files with the current, in mA, and the voltage, in mV, of every power rail."""
    found = {}
    for sensor in sorted(sensors.glob("hwmon*")):
        if _text(sensor / "name") != _SENSOR:
            continue
        for channel in _CHANNELS:
            name = _text(sensor / f"in{channel}_label")
            if name and name != "NC":
                current_ma = sensor / f"curr{channel}_input"
                found[name] = (current_ma, sensor / f"in{channel}_input")
    return found


def _families(readings: list[Reading]) -> Iterable[Metric]:
    power = _gauge("gpusq_gpu_power_watts", "What the board of a GPU draws.")
    used = _gauge("gpusq_gpu_memory_used_bytes", "Memory of a GPU that any process holds.")
    memory = _gauge("gpusq_gpu_memory_bytes", "All memory of a GPU.")
    busy = _gauge("gpusq_gpu_utilization_ratio", "Share of time in which something ran on a GPU.")
    energy = CounterMetricFamily(
        "gpusq_gpu_energy_joules",
        "What the board of a GPU has drawn since its driver was loaded.",
        labels=_LABELS,
    )
    for one in readings:
        values = (
            (power, one.power_watts),
            (used, one.memory_used_bytes),
            (memory, one.memory_bytes),
            (busy, one.utilization),
            (energy, one.energy_joules),
        )
        for family, value in values:
            if value is not None:
                family.add_metric([str(one.index), one.name], value)
    return power, used, memory, busy, energy


def _gauge(name: str, says: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, labels=_LABELS)


def _watts(current_ma: Path, voltage_mv: Path) -> float | None:
    current, voltage = _text(current_ma), _text(voltage_mv)
    if not (current.lstrip("-").isdecimal() and voltage.isdecimal()):
        return None
    return int(current) * int(voltage) / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
