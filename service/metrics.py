"""What Prometheus reads. One registry an instance, no globals, so two gateways never mix."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
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
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from service.executors.executor import Model
from service.observe import exchange

STAGES: Final = ("read", "decode", "preprocess", "queue", "infer", "postprocess")
# From a postprocess of 50 us to the longest deadline, finest where requests usually fall.
BUCKETS_S: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
# Where requests wait, by what comes next.
QUEUES: Final = ("decode", "infer", "postprocess")
# Stands for the task where a network was asked for its tensors.
TENSORS: Final = "infer"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_NO_MODEL: Final = ""


@dataclass(frozen=True)
class _Timed:
    """The histograms of one model at one task."""

    stages: Mapping[str, Histogram]
    total: Histogram


class Metrics:
    """Counts requests and times their stages.

    Args:
        executor: What runs the models.
    """

    def __init__(self, executor: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._executor = executor
        # Looking a child up by its labels costs more than observing it.
        self._timed: dict[tuple[str, str], _Timed] = {}
        self._task_of: dict[str, str] = {}
        self._batches: dict[str, Histogram] = {}
        self._told: dict[Gauge, set[tuple[str, ...]]] = {}
        self._make_histograms()
        self._requests = Counter(
            "gpusq_requests",
            "Requests by outcome: ok, cancelled, or the error code.",
            ("model", "task", "outcome"),
            registry=self._registry,
        )
        self._sheds = Counter(
            "gpusq_sheds",
            "Requests refused because the service is busy: too many requests or bytes under way, "
            "or too little time left.",
            ("reason",),
            registry=self._registry,
        )
        self._make_gauges()
        self._key_requests = Counter(
            "gpusq_key_requests",
            "Requests by API key and how they were let in: admitted, or the error code.",
            ("key", "outcome"),
            registry=self._registry,
        )

    @property
    def registry(self) -> CollectorRegistry:
        """Where others register what they count."""
        return self._registry

    def take_up(
        self, models: Mapping[str, Model], unavailable: Iterable[str], behind: Container[str] = ()
    ) -> None:
        """Learn which models there are; only these become label values, so no client adds one.

        Args:
            models: Those that can be asked.
            unavailable: Names of those that cannot.
            behind: Names of those that answer by an earlier version than the newest.
        """
        for name, model in models.items():
            task = self._task_of[name] = model.card.task
            if (name, task) not in self._timed:
                self._timing(name, task)
                self._batches[name] = self._batch_images.labels(name)
                self._requests.labels(name, task, "ok")
        ready = {**dict.fromkeys(unavailable, 0.0), **dict.fromkeys(models, 1.0)}
        self._tell(self._ready, {(name, self._executor): is_up for name, is_up in ready.items()})
        self._tell(self._behind, {(name,): float(name in behind) for name in models})
        self._tell(self._info, dict.fromkeys(map(self._described, models.values()), 1.0))

    def watch(self, is_up: Callable[[], bool]) -> None:
        """Tell at every look whether the executor can be reached.

        Args:
            is_up: Asked in the thread that writes the metrics.
        """
        self._up.labels(self._executor).set_function(lambda: float(is_up()))

    def add(self, collector: Collector) -> None:
        """Ask somebody else for more at every look."""
        self._registry.register(collector)

    def observe(
        self, model: str, stages_s: Mapping[str, float], total_s: float, task: str | None = None
    ) -> None:
        """Record the time of every stage of one answered request.

        Args:
            model: Who answered.
            stages_s: Seconds by stage.
            total_s: Seconds of all of it.
            task: What was asked for; None for what the model is for.
        """
        task = task or self._task_of[model]
        timed = self._timed.get((model, task)) or self._timing(model, task)
        asking = exchange.current()
        exemplar = None if asking is None else asking.exemplar()
        for stage, seconds in stages_s.items():
            timed.stages[stage].observe(seconds, exemplar)
        timed.total.observe(total_s, exemplar)

    def batch(self, model: str, images: int) -> None:
        """Record how many pictures went through a network in one call."""
        self._batches[model].observe(images)

    def count(self, model: str | None, outcome: str, task: str | None = None) -> None:
        """Count one request.

        Args:
            model: Who was asked; None where the request named none that exists.
            outcome: ok, cancelled, or the error code.
            task: What was asked for; None for tensors.
        """
        self._requests.labels(model or _NO_MODEL, task or TENSORS, outcome).inc()

    def shed(self, reason: str) -> None:
        """Count one request that found no place: for `requests`, `bytes` or `time`."""
        self._sheds.labels(reason).inc()

    def count_key(self, key: str, outcome: str) -> None:
        """Count one request that needed an API key; ``key`` is the id of one in the file, or ''."""
        self._key_requests.labels(key, outcome).inc()

    def waits(self, queue: str) -> Callable[[], None]:
        """Count one more that waits.

        Args:
            queue: Where, of :data:`QUEUES`.

        Returns:
            What is called, from any thread, once it no longer waits; calling it again is harmless.
        """
        gauge = self._waiting[queue]
        gauge.inc()
        waiting = [gauge]

        def is_over() -> None:
            # To pop is atomic: a thread that begins and a request that gives up may meet here.
            try:
                waiting.pop().dec()
            except IndexError:
                return

        return is_over

    def render(self) -> bytes:
        """Return everything in Prometheus' text format, which has no exemplars."""
        return generate_latest(self._registry)

    def render_open(self) -> bytes:
        """Return everything in the OpenMetrics format, with exemplars."""
        found: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return found

    def _make_histograms(self) -> None:
        self._stage_seconds = Histogram(
            "gpusq_stage_seconds",
            "Time of one stage of an answered request.",
            ("stage", "model", "task"),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self._request_seconds = Histogram(
            "gpusq_request_seconds",
            "Time of an answered request, from its first byte to its answer.",
            ("model", "task"),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self._batch_images = Histogram(
            "gpusq_batch_images",
            "Pictures in one call of the executor.",
            ("model",),
            registry=self._registry,
            buckets=BATCHES,
        )

    def _make_gauges(self) -> None:
        self.in_flight = Gauge(
            "gpusq_in_flight", "Requests admitted and not answered yet.", registry=self._registry
        )
        self.bytes_in_flight = Gauge(
            "gpusq_in_flight_bytes",
            "Bytes of pictures of requests in flight, as they were sent.",
            registry=self._registry,
        )
        waiting = Gauge(
            "gpusq_waiting",
            "Pictures that wait for a thread to decode them, for the network, or for a thread "
            "that makes an answer.",
            ("queue",),
            registry=self._registry,
        )
        self._waiting = {queue: waiting.labels(queue) for queue in QUEUES}
        self._up = Gauge(
            "gpusq_executor_up",
            "Whether what runs the networks can be reached: 1, or 0.",
            ("executor",),
            registry=self._registry,
        )
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
        self._behind = _behind(self._registry)

    def _timing(self, model: str, task: str) -> _Timed:
        stages = {stage: self._stage_seconds.labels(stage, model, task) for stage in STAGES}
        timed = _Timed(stages, self._request_seconds.labels(model, task))
        self._timed[model, task] = timed
        return timed

    def _described(self, model: Model) -> tuple[str, ...]:
        precision = model.card.precision
        return (
            model.name,
            str(model.version),
            model.card.task,
            precision.weights,
            precision.sparsity,
            self._executor,
        )

    def _tell(self, gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        """Give a gauge these values by their labels, and none else."""
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        # Only now: in another thread it may be read at any moment, and nothing shall be missing.
        for labels in self._told.get(gauge, set()) - set(values):
            gauge.remove(*labels)
        self._told[gauge] = set(values)


def _behind(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "gpusq_model_behind",
        "Whether a model answers by an earlier version because its newest cannot be loaded.",
        ("model",),
        registry=registry,
    )
