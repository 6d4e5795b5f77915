"""In what form an answer is wanted, by the header Accept."""

from __future__ import annotations

from typing import Final

PNG: Final = "image/png"
_JSON: Final = ("application/json", "application/*", "*/*")
_OPEN_METRICS: Final = "application/openmetrics-text"
_TEXT: Final = ("text/plain",)


def prefers_png(accept: str) -> bool:
    """Say whether an Accept header names PNG, and nothing that it would rather have.

    >>> prefers_png("image/png"), prefers_png("image/png;q=0.1, */*"), prefers_png("*/*")
    (True, False, False)
    """
    return _prefers(accept, PNG, _JSON)


def prefers_open_metrics(accept: str) -> bool:
    """Say whether an Accept header names OpenMetrics, and no plain text that it would rather have.

    >>> prefers_open_metrics("application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*")
    True
    >>> prefers_open_metrics("text/plain"), prefers_open_metrics("*/*")
    (False, False)
    """
    return _prefers(accept, _OPEN_METRICS, _TEXT)


def _prefers(accept: str, wanted: str, others: tuple[str, ...]) -> bool:
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        # Prometheus names a kind once a version.
        weights[kind] = max(weights.get(kind, 0.0), _weight(parameters))
    weight = weights.get(wanted, 0.0)
    return weight > 0 and weight >= max(weights.get(kind, 0.0) for kind in others)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
