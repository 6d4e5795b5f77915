"""What this processor's INT8 instructions compute, which every runtime's kernels inherit."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

_X86: Final = ("x86_64", "amd64", "i386", "i686")
_DOT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


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
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    flags = [line.partition(":")[2].split() for line in text.splitlines() if "flags" in line]
    return not any(_DOT_PRODUCTS & set(of_one) for of_one in flags)
