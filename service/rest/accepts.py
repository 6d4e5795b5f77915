"""Whether a map is wanted as it is, by the header Accept."""

from __future__ import annotations

from typing import Final

PNG: Final = "image/png"
_JSON: Final = ("application/json", "application/*", "*/*")


def prefers_png(accept: str) -> bool:
    """Say whether an Accept header names PNG, and nothing that it would rather have.

    >>> prefers_png("image/png"), prefers_png("image/png;q=0.1, */*"), prefers_png("*/*")
    (True, False, False)
    """
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weights[kind] = _weight(parameters)
    png = weights.get(PNG, 0.0)
    return png > 0 and png >= max(weights.get(kind, 0.0) for kind in _JSON)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
