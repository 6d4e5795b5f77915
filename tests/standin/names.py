"""Enumerations of the module ``tensorrt`` by version, and what every class of it refuses."""

from __future__ import annotations

import enum
from typing import Any


class Bound(enum.Enum):
    """An enumeration as pybind11 makes it: no int, but one can be made of it."""

    def __int__(self) -> int:
        return int(self.value)


class Native:
    """An object of compiled code: what it has no name for cannot be set."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


class Severity(Bound):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


_PRECISIONS = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", "FP8")
_KEPT = ("DEBUG", "REFIT", "DISABLE_TIMING_CACHE", "TF32", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE")
_FLAGS = {
    8: (*_PRECISIONS, *_KEPT),
    10: (*_PRECISIONS, "BF16", "INT4", *_KEPT, "STRIP_PLAN", "EDITABLE_TIMING_CACHE"),
    11: (*_KEPT, "STRIP_PLAN", "EDITABLE_TIMING_CACHE", "DISTRIBUTIVE_INDEPENDENCE"),
}
_NETWORK = {8: ("EXPLICIT_BATCH",), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED"), 11: None}
_TYPES = {
    8: ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8"),
    10: ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4"),
}
_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")


def enumerations(major: int) -> dict[str, type[Bound]]:
    """Return the enumerations that a major version has."""

    def made(name: str, members: tuple[str, ...]) -> type[Bound]:
        return Bound(name, {member: index for index, member in enumerate(members)})  # type: ignore[return-value]

    return {
        "BuilderFlag": made("BuilderFlag", _FLAGS[major]),
        "NetworkDefinitionCreationFlag": made(
            "NetworkDefinitionCreationFlag", _NETWORK[major] or ("STRONGLY_TYPED",)
        ),
        "DataType": made("DataType", _TYPES[min(major, 10)]),
        "TensorIOMode": made("TensorIOMode", ("NONE", "INPUT", "OUTPUT")),
        "MemoryPoolType": made("MemoryPoolType", ("WORKSPACE", "DLA_MANAGED_SRAM")),
        "ProfilingVerbosity": made("ProfilingVerbosity", ("LAYER_NAMES_ONLY", "NONE", "DETAILED")),
        "LayerInformationFormat": made("LayerInformationFormat", ("ONELINE", "JSON")),
        "TacticSource": made("TacticSource", _TACTICS),
    }
