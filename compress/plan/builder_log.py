"""What TensorRT's builder says about sparse layers while it builds, read from its log.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# trtexec puts time and severity before a line; a logger of one's own gets the rest alone.
_SPARSITY: Final = re.compile(
    r"\(Sparsity\)\s*(?P<kind>Layers eligible for sparse math"
    r"|TRT inference plan picked sparse implementation for layers)\s*:\s*(?P<names>.*)"
)
_PREFIX: Final = re.compile(r"^\s*\[\d")
_LAYER: Final = re.compile(r"\s*,\s*")


@dataclass(frozen=True)
class SparsityLog:
    """The two lists of the builder.

    Args:
        eligible: Layers whose weights follow 2:4 and which have sparse kernels.
        picked: Those for which a sparse kernel was the faster one.
        reported: Whether the builder wrote both lists at all; without SPARSE_WEIGHTS, or with a
            logger below INFO, it does not.
    """

    eligible: tuple[str, ...]
    picked: tuple[str, ...]
    reported: bool


def read(text: str) -> SparsityLog:
    """Read both lists out of a whole log; the last one of each counts.

    A list that trtexec's console has wrapped goes on in the next line.
    """
    found: dict[str, str] = {}
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if match := _SPARSITY.search(line):
            kind = "eligible" if "eligible" in match["kind"] else "picked"
            # Only a list that has begun, in a log whose lines have a prefix, can be wrapped.
            wrapped = bool(_PREFIX.match(line)) and bool(match["names"])
            found[kind] = match["names"] + ("".join(_rest(lines[index + 1 :])) if wrapped else "")
    return SparsityLog(
        eligible=_names(found.get("eligible", "")),
        picked=_names(found.get("picked", "")),
        reported=len(found) == 2,
    )


def _rest(lines: list[str]) -> list[str]:
    rest = []
    for line in lines:
        if not line.strip() or _PREFIX.match(line):
            break
        rest.append(line)
    return rest


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in _LAYER.split(text.strip()) if name)
