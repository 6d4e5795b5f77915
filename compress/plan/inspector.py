"""Which layers of an engine run sparse and which in INT8, from the engine and its builder's log.

The engine inspector writes layers in detail only when the engine was built with
``ProfilingVerbosity.DETAILED``. Its JSON has format and type of a tensor in one field up to
TensorRT 10, and the type in a field of its own from 11 on.
Imports neither torch nor pydantic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compress.errors import PlanError
from compress.plan.builder_log import SparsityLog

_INT8: Final = re.compile(r"\bint8\b", re.IGNORECASE)
# How NVIDIA's libraries call their sparse kernels.
_SPARSE_KERNEL: Final = re.compile(r"sparse|spgemm|_sp_|sp24", re.IGNORECASE)


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine, as it was built.

    Args:
        name: As the builder named it, of all that was fused into it.
        kind: Of layer, such as ``CaskConvolution``.
        tactic: The kernel's name; empty where the inspector gives none.
        int8: Whether the first input is INT8.
        sparse_weights: Whether the builder found 2:4 weights. Not whether it uses them.
    """

    name: str
    kind: str
    tactic: str
    int8: bool
    sparse_weights: bool

    @property
    def sparse_kernel(self) -> bool:
        """Whether the kernel's name says that it is a sparse one."""
        return bool(_SPARSE_KERNEL.search(self.tactic))


@dataclass(frozen=True)
class SparsityProof:
    """What is known about sparsity in one engine. Only ``picked`` counts as running sparse.

    Args:
        eligible: Layers with 2:4 weights for which there are sparse kernels.
        picked: Those that run one.
        int8: Layers that read INT8.
        fell_back: Layers with 2:4 weights that run dense, and why.
    """

    eligible: tuple[str, ...]
    picked: tuple[str, ...]
    int8: tuple[str, ...]
    fell_back: Mapping[str, str]

    def __str__(self) -> str:
        """Return the proof as one line."""
        return (
            f"{len(self.picked)} of {len(self.eligible)} eligible layers run a sparse kernel, "
            f"{len(self.int8)} layers read INT8, {len(self.fell_back)} with 2:4 weights run dense"
        )

    def plain(self) -> dict[str, Any]:
        """Return what can be written as JSON."""
        return {
            "eligible": list(self.eligible),
            "picked": list(self.picked),
            "int8": list(self.int8),
            "fell_back": dict(self.fell_back),
        }


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """Read the inspector's JSON of a whole engine.

    Raises:
        PlanError: It is no JSON, or names layers without their details.
    """
    try:
        layers = json.loads(text, strict=False)["Layers"]
        detailed = [_layer(entry) for entry in layers]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(
            "expected the engine inspector's JSON with the details of every layer, came "
            f"{text[:60]!r}. Build with profiling verbosity DETAILED."
        ) from error
    return tuple(detailed)


def prove(log: SparsityLog, layers: tuple[EngineLayer, ...]) -> SparsityProof:
    """Put together what the builder said and what the engine shows.

    A builder that reports nothing leaves the kernels' names as the only evidence.
    """
    by_kernel = tuple(layer.name for layer in layers if layer.sparse_kernel)
    marked = tuple(layer.name for layer in layers if layer.sparse_weights)
    picked = log.picked if log.reported else by_kernel
    eligible = log.eligible if log.reported else marked
    fell_back = {name: _why(name, log) for name in dict.fromkeys((*eligible, *marked))}
    return SparsityProof(
        eligible=eligible,
        picked=picked,
        int8=tuple(layer.name for layer in layers if layer.int8),
        fell_back={
            name: why for name, why in fell_back.items() if name not in {*picked, *by_kernel}
        },
    )


def _why(name: str, log: SparsityLog) -> str:
    if not log.reported:
        return "its kernel is not a sparse one; the builder's log has no list"
    if name in log.eligible:
        return "a dense kernel was faster"
    return "2:4 weights, but the builder had no sparse kernel for this layer"


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    first: Mapping[str, Any] = next(iter(entry.get("Inputs") or ()), {})
    kind = str(first.get("DataType") or first.get("Format/Datatype") or "")
    return EngineLayer(
        name=entry["Name"],
        kind=entry["LayerType"],
        tactic=str(entry.get("TacticName", "")),
        int8=bool(_INT8.search(kind)),
        sparse_weights=bool(int(entry.get("HasSparseWeights", 0))),
    )
