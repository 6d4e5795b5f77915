"""Line charts of the report: what is drawn where, for the page's template to put into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 8, 22
_INTERVALS = 3
_LEAST_POINTS = 2.0


@dataclass(frozen=True)
class Tick:
    """One mark of the vertical axis: its height in the picture, and what it says."""

    y: float
    text: str


@dataclass(frozen=True)
class Dot:
    """One value: its place in the picture, and what a pointer is told."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A line over the steps of a stage.

    Args:
        dots: Of the line.
        ticks: Of the vertical axis, lowest first.
        last: The last step, at the right end; the left end is step 0.
        level: Height of a dashed line to compare with, if there is one.
    """

    dots: list[Dot]
    ticks: list[Tick]
    last: int
    level: float | None = None

    @property
    def line(self) -> str:
        """The points as SVG's ``polyline`` takes them."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)


def loss_chart(points: Sequence[dict[str, float]]) -> Chart:
    """Draw the loss from zero to its largest value."""
    values = [(point["step"], point["loss"]) for point in points]
    return _chart(values, 0.0, max(loss for _, loss in values), "")


def accuracy_chart(scores: Sequence[dict[str, float]], data: str, dense: float) -> Chart:
    """Draw top-1 on one folder in percent, with the dense network's as a level."""
    values = [(score["step"], 100 * score[data]) for score in scores]
    seen = [value for _, value in values] + [100 * dense]
    low, high = min(seen), max(seen)
    # Not a whole axis for a hundredth of a point.
    room = max(0.0, (_LEAST_POINTS - (high - low)) / 2)
    low, high = max(0.0, low - room), min(100.0, high + room)
    return _chart(values, low, high, " %", 100 * dense)


def _chart(
    values: Sequence[tuple[float, float]],
    low: float,
    high: float,
    unit: str,
    level: float | None = None,
) -> Chart:
    marks = axis(low, high)
    last = max(step for step, _ in values)

    def height(value: float) -> float:
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    dots = [
        Dot(
            _LEFT + (WIDTH - _LEFT - _RIGHT) * step / max(last, 1),
            height(value),
            f"step {step:.0f}: {value:.4g}{unit}",
        )
        for step, value in values
    ]
    ticks = [Tick(height(mark), f"{mark:g}{unit}") for mark in marks]
    return Chart(dots, ticks, int(last), None if level is None else height(level))


def axis(low: float, high: float) -> list[float]:
    """Return round, evenly spaced marks from at most ``low`` to at least ``high``.

    >>> axis(0.0, 7.3)
    [0.0, 5.0, 10.0]
    >>> axis(93.1, 97.2)
    [92.0, 94.0, 96.0, 98.0]
    """
    span = max(high - low, 1e-6 * abs(high), 1e-9)
    power = 10.0 ** math.floor(math.log10(span / _INTERVALS))
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= span / _INTERVALS)
    first, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(end, first + 1) + 1)]
