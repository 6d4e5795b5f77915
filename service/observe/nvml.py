"""What NVIDIA's management library tells of each GPU, by ctypes: it comes with the driver."""

from __future__ import annotations

import ctypes
import logging
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from typing import Any, Final

logger = logging.getLogger(__name__)

_FILE: Final = "libnvidia-ml.so.1"
# Numbers and structures of nvml.h, which have not changed since version 2 of each function.
_NAME_BYTES: Final = 96


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", c_uint), ("memory", c_uint))


_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "nvmlInit_v2": (),
    "nvmlDeviceGetCount_v2": (POINTER(c_uint),),
    "nvmlDeviceGetHandleByIndex_v2": (c_uint, POINTER(c_void_p)),
    "nvmlDeviceGetName": (c_void_p, c_char_p, c_uint),
    "nvmlDeviceGetPowerUsage": (c_void_p, POINTER(c_uint)),
    "nvmlDeviceGetTotalEnergyConsumption": (c_void_p, POINTER(c_ulonglong)),
    "nvmlDeviceGetMemoryInfo": (c_void_p, POINTER(_Memory)),
    "nvmlDeviceGetUtilizationRates": (c_void_p, POINTER(_Utilization)),
}


@dataclass(frozen=True)
class Reading:
    """What one GPU told; None for what this one, or its driver, does not tell.

    Args:
        index: The driver's number for it.
        name: As the driver calls it.
        power_watts: What the whole board draws.
        energy_joules: What it has drawn since the driver was loaded.
        memory_used_bytes: Of all processes.
        memory_bytes: All there is.
        utilization: The share of the last moments in which something ran on it, 0 to 1.
    """

    index: int
    name: str
    power_watts: float | None
    energy_joules: float | None
    memory_used_bytes: int | None
    memory_bytes: int | None
    utilization: float | None


class Nvml:
    """The GPUs of this machine.

    Args:
        library: libnvidia-ml, as ctypes loads it.

    Raises:
        OSError: The library lacks a function, or finds no driver.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, types in _SIGNATURES.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise OSError(f"{_FILE} has no {name}") from error
            function.argtypes, function.restype = types, c_int
        if status := library.nvmlInit_v2():
            raise OSError(f"nvmlInit_v2 failed with {status}")
        self._devices = self._find()

    def __len__(self) -> int:
        """Return how many GPUs there are."""
        return len(self._devices)

    def read(self) -> list[Reading]:
        """Ask every GPU."""
        return [self._read(index, name, at) for index, (name, at) in enumerate(self._devices)]

    def _find(self) -> list[tuple[str, c_void_p]]:
        count = c_uint()
        if not self._tells("nvmlDeviceGetCount_v2", byref(count)):
            return []
        devices = []
        for index in range(count.value):
            at = c_void_p()
            if self._tells("nvmlDeviceGetHandleByIndex_v2", index, byref(at)):
                devices.append((self._name(at), at))
        return devices

    def _name(self, at: c_void_p) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self._tells("nvmlDeviceGetName", at, text, _NAME_BYTES)
        return text.value.decode("utf-8", "replace")

    def _read(self, index: int, name: str, at: c_void_p) -> Reading:
        milliwatts, millijoules = c_uint(), c_ulonglong()
        memory, busy = _Memory(), _Utilization()
        has_power = self._tells("nvmlDeviceGetPowerUsage", at, byref(milliwatts))
        has_energy = self._tells("nvmlDeviceGetTotalEnergyConsumption", at, byref(millijoules))
        has_memory = self._tells("nvmlDeviceGetMemoryInfo", at, byref(memory))
        is_counted = self._tells("nvmlDeviceGetUtilizationRates", at, byref(busy))
        return Reading(
            index,
            name,
            power_watts=milliwatts.value / 1000 if has_power else None,
            energy_joules=millijoules.value / 1000 if has_energy else None,
            memory_used_bytes=memory.used if has_memory else None,
            memory_bytes=memory.total if has_memory else None,
            utilization=busy.gpu / 100 if is_counted else None,
        )

    def _tells(self, name: str, *arguments: Any) -> bool:
        return not getattr(self._library, name)(*arguments)


def find() -> Nvml | None:
    """Return the GPUs of this machine; None where it has none, or no driver for them."""
    try:
        found = Nvml(ctypes.CDLL(_FILE))
    except OSError as error:
        logger.debug("no GPU is watched: %s", error)
        return None
    return found if len(found) else None
