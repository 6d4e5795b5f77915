"""How often each model was asked through this protocol, and how long it took, as Triton says it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from service.answer import Inferred
from service.executors.executor import Model
from service.ledger import Ledger

# Triton's durations, each with the stages that it is here.
_DURATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "success": ("total",),
    "queue": ("queue",),
    "compute_input": ("read", "decode", "preprocess"),
    "compute_infer": ("infer",),
    # The outputs are sent as they come.
    "compute_output": (),
}
_NS_PER_MS: Final = 1_000_000


@dataclass
class Duration:
    """Several stretches of time.

    Args:
        count: How many.
        ns: Nanoseconds of them all.
    """

    count: int = 0
    ns: int = 0

    def add(self, ms: float) -> None:
        """Take up one more."""
        self.count += 1
        self.ns += round(ms * _NS_PER_MS)


@dataclass
class _Counts:
    pictures: int = 0
    last_ms: int = 0
    durations: dict[str, Duration] = field(
        default_factory=lambda: {name: Duration() for name in ("fail", *_DURATIONS)}
    )


class Statistics:
    """Counts from the start of the process, by model and version."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], _Counts] = {}

    def answered(self, inferred: Inferred, pictures: int) -> None:
        """Count one request that was answered."""
        counts = self._counts.setdefault((inferred.model, inferred.version), _Counts())
        counts.pictures += pictures
        counts.last_ms = time.time_ns() // _NS_PER_MS
        for name, stages in _DURATIONS.items():
            spent_ms = sum(inferred.timings_ms.get(stage, 0.0) for stage in stages)
            counts.durations[name].add(spent_ms)

    def failed(self, model: Model, ledger: Ledger) -> None:
        """Count one request that had no answer."""
        counts = self._counts.setdefault((model.name, model.version), _Counts())
        counts.durations["fail"].add(ledger.timings_ms()["total"])

    def of(self, model: Model) -> dict[str, Any]:
        """Say what was counted, in the form of Triton's ModelStatistics."""
        counts = self._counts.get((model.name, model.version), _Counts())
        return {
            "name": model.name,
            "version": str(model.version),
            "last_inference": counts.last_ms,
            "inference_count": counts.pictures,
            "execution_count": counts.durations["success"].count,
            "inference_stats": {name: {**vars(d)} for name, d in counts.durations.items()},
            "batch_stats": [],
        }
