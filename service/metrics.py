"""What Prometheus reads. One registry an instance, no globals, so two gateways never mix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        executor: What runs the models.
    """

    content_type: Final = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, executor: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._executor = executor
        self._stage_seconds = Histogram(
            "gpusq_stage_seconds",
            "Time of one stage of an answered request.",
            ("stage", "model"),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self._request_seconds = Histogram(
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
        self.bytes_in_flight = Gauge(
            "gpusq_in_flight_bytes",
            "Bytes of pictures of requests in flight, as they were sent.",
            registry=self._registry,
        )
        self._sheds = Counter(
            "gpusq_sheds",
            "Requests refused because the service is busy: too many requests or bytes under way, "
            "or too little time left.",
            ("reason",),
            registry=self._registry,
        )
        # Looking a child up by its labels costs more than observing it.
        self._stages: dict[str, dict[str, Histogram]] = {}
        self._totals: dict[str, Histogram] = {}
        self._info = Gauge(
            "gpusq_model_info",
            "The models that can be asked; always 1.",
            ("model", "version", "task", "precision", "sparsity", "executor"),
            registry=self._registry,
        )
        self._ready = Gauge(
            "gpusq_model_ready",
            "Whether a model can be asked: 1, or 0.",
            ("model", "executor"),
            registry=self._registry,
        )

    def take_up(self, models: Mapping[str, Model], unavailable: Iterable[str]) -> None:
        """Learn which models there are; only these become label values, so no client adds one.

        Args:
            models: Those that can be asked.
            unavailable: Names of those that cannot.
        """
        for model in models.keys() - self._stages.keys():
            labels = self._stage_seconds.labels
            self._stages[model] = {stage: labels(stage, model) for stage in STAGES}
            self._totals[model] = self._request_seconds.labels(model)
            self._requests.labels(model, "ok")
        self._ready.clear()
        for name in unavailable:
            self._ready.labels(name, self._executor).set(0)
        self._describe(models)

    def observe(self, model: str, stages_s: Mapping[str, float], total_s: float) -> None:
        """Record the time of every stage of one answered request."""
        children = self._stages[model]
        for stage, seconds in stages_s.items():
            children[stage].observe(seconds)
        self._totals[model].observe(total_s)

    def count(self, model: str | None, outcome: str) -> None:
        """Count one request; ``model`` is None where the request named none that exists."""
        self._requests.labels(model or _NO_MODEL, outcome).inc()

    def shed(self, reason: str) -> None:
        """Count one request that found no place: for `requests`, `bytes` or `time`."""
        self._sheds.labels(reason).inc()

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _describe(self, models: Mapping[str, Model]) -> None:
        self._info.clear()
        for model in models.values():
            precision = model.card.precision
            self._ready.labels(model.name, self._executor).set(1)
            self._info.labels(
                model.name,
                model.version,
                model.card.task,
                precision.weights,
                precision.sparsity,
                self._executor,
            ).set(1)
