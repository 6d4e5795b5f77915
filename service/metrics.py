"""What Prometheus reads. One registry an instance, no globals, so two gateways never mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from service.executors.executor import Model

STAGES: Final = ("read", "decode", "preprocess", "queue", "infer", "postprocess")
# From a postprocess of 50 us to the longest deadline, finest where requests usually fall.
BUCKETS_S: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_NO_MODEL: Final = ""


class Metrics:
    """Counts requests and times their stages.

    Args:
        models: The models that can be asked; their label values are known from the start, so
            no client can add one.
        executor: What runs them.
    """

    content_type: Final = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, models: Mapping[str, Model], executor: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        stages = Histogram(
            "gpusq_stage_seconds",
            "Time of one stage of an answered request.",
            ("stage", "model"),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        totals = Histogram(
            "gpusq_request_seconds",
            "Time of an answered request, from its first byte to its answer.",
            ("model",),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self._requests = Counter(
            "gpusq_requests",
            "Requests by outcome: ok, cancelled, or the error code.",
            ("model", "outcome"),
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "gpusq_in_flight", "Requests admitted and not answered yet.", registry=self._registry
        )
        # Looking a child up by its labels costs more than observing it.
        self._stages = {
            model: {stage: stages.labels(stage, model) for stage in STAGES} for model in models
        }
        self._totals = {model: totals.labels(model) for model in models}
        for model in models:
            self._requests.labels(model, "ok")
        self._describe(models, executor)

    def observe(self, model: str, stages_s: Mapping[str, float], total_s: float) -> None:
        """Record the time of every stage of one answered request."""
        children = self._stages[model]
        for stage, seconds in stages_s.items():
            children[stage].observe(seconds)
        self._totals[model].observe(total_s)

    def count(self, model: str | None, outcome: str) -> None:
        """Count one request; ``model`` is None where the request named none that exists."""
        self._requests.labels(model or _NO_MODEL, outcome).inc()

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _describe(self, models: Mapping[str, Model], executor: str) -> None:
        info = Gauge(
            "gpusq_model_info",
            "The models that can be asked; always 1.",
            ("model", "version", "task", "precision", "sparsity", "executor"),
            registry=self._registry,
        )
        for model in models.values():
            precision = model.card.precision
            info.labels(
                model.name,
                model.version,
                model.card.task,
                precision.weights,
                precision.sparsity,
                executor,
            ).set(1)
