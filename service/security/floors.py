"""Which releases of what reads strangers' bytes have their known faults mended."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

FLOORS: Final = {
    # CVE-2026-112403: a heap overflow in the JPEG decoder.
    "pillow": "13.0.0",
    # CVE-2026-54283 and, of earlier ones, CVE-2026-48710.
    "starlette": "1.3.1",
    # CVE-2026-53538 and 53540.
    "python-multipart": "0.0.32",
}


def below() -> list[str]:
    """Say of each installed package that has known faults what to do."""
    return [
        f"{name} {came} has known security faults that {floor} mends. Install {floor} or newer; "
        "docs/security.md says where it cannot be had."
        for name, floor in FLOORS.items()
        if _numbers(came := metadata.version(name)) < _numbers(floor)
    ]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
