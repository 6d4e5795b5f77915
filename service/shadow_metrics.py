"""What Prometheus reads of shadows: how far two networks agree, and how much longer one takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_TIMES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class ShadowMetrics:
    """Counts comparisons, and what they showed.

    Args:
        registry: Of the service.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        pair = ("model", "shadow")
        self._requests = Counter(
            "gpusq_shadow_requests",
            "Requests chosen for a shadow, by outcome: ok, dropped because the service was busy, "
            "or failed.",
            (*pair, "outcome"),
            registry=registry,
        )
        self._agreement = Histogram(
            "gpusq_shadow_agreement",
            "How far the shadow agrees about one picture, by measure, 0 to 1.",
            (*pair, "measure"),
            registry=registry,
            buckets=_SHARES,
        )
        # Not the difference: a histogram of what may be negative has no sum, which readers require.
        self._latency = Histogram(
            "gpusq_shadow_latency_ratio",
            "Time in the shadow's network by that in the network that answered.",
            pair,
            registry=registry,
            buckets=_TIMES,
        )
        self._seconds = Counter(
            "gpusq_shadow_infer_seconds",
            "Time in the two networks for the same pictures; side is live or shadow.",
            (*pair, "side"),
            registry=registry,
        )

    def count(self, model: str, shadow: str, outcome: str) -> None:
        """Count one request that was chosen."""
        self._requests.labels(model, shadow, outcome).inc()

    def compared(
        self, model: str, shadow: str, measures: Mapping[str, float], took_s: tuple[float, float]
    ) -> None:
        """Record one comparison.

        Args:
            model: Who answered.
            shadow: Who was asked too.
            measures: How far they agree.
            took_s: How long each network took.
        """
        for measure, share in measures.items():
            self._agreement.labels(model, shadow, measure).observe(share)
        self._latency.labels(model, shadow).observe(took_s[1] / took_s[0])
        for side, seconds in zip(("live", "shadow"), took_s, strict=True):
            self._seconds.labels(model, shadow, side).inc(seconds)
