"""What this processor's instructions compute, and which it lacks."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

_X86: Final = ("x86_64", "amd64", "i386", "i686")
_BFLOAT16: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_DOT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


def cpus() -> int:
    """Return how many processors this process may use."""
    # Containers and taskset give a process fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def int8_saturates(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str | None = None) -> bool:
    """Say whether sums of two INT8 products saturate at 16 bits before they are added up.

    On x86 without VNNI they do (the instruction is VPMADDUBSW), so INT8 kernels give wrong sums
    for large weights and a network has to be computed in float instead. A processor that cannot
    be asked counts as such.

    Args:
        cpuinfo: What Linux tells about the processor.
        machine: Its architecture; None asks the system.
    """
    if (machine or platform.machine()).lower() not in _X86:
        return False
    flags = _flags(cpuinfo)
    return flags is None or not flags & _DOT_PRODUCTS


def lacks_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether bfloat16 products have to be emulated, which is far slower than float32.

    A processor that cannot be asked does not count as such.

    Args:
        cpuinfo: What Linux tells about the processor.
    """
    flags = _flags(cpuinfo)
    return flags is not None and not flags & _BFLOAT16


def _flags(cpuinfo: Path) -> set[str] | None:
    """Return what any of the cores can do, or None."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # x86 calls them flags, Arm features.
    named = (line.partition(":") for line in text.splitlines())
    told = [value.split() for key, _, value in named if key.strip() in ("flags", "Features")]
    return {flag for of_one in told for flag in of_one}
