"""Draws a comparison as SVG: ratios of every contender, with the paper's as marks.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Final

from compress.charts import axis
from compress.plan.bench_table import Ratio, Row, Table
from compress.plan.paper import reported

_COLOURS: Final = ("#9aa5b1", "#5b8def", "#e0a030", "#8e6bc9", "#3fa796", "#1f6f5c", "#c0504d")
_PAPER: Final = "#111111"
_LINE, _TEXT, _SOFT = "#dddddd", "#222222", "#666666"
_BAR_PX, _GAP_PX, _PANEL_PX = 14, 26, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 34, 34
_LEGEND_PX = 18
_LEAST_WIDTH_PX = 620


@dataclass(frozen=True)
class _Panel:
    """One of the two ratios: what is drawn of a row, and of the paper."""

    title: str
    field: str
    index: int

    def of(self, ratio: Ratio) -> float | None:
        found: float | None = getattr(ratio, self.field)
        return found


_PANELS: Final = (
    _Panel("Latency at batch 1: times faster than {}", "latency", 0),
    _Panel("Throughput at the best batch: times that of {}", "throughput", 1),
)


def svg(table: Table) -> str:
    """Return the picture of a table as one SVG file.

    Bars are what was measured, over the first of the table's baselines; diamonds are the paper's
    ratios over FP32 on an A100, filled for INT8 and hollow for INT4.
    """
    names = list(dict.fromkeys(row.contender for row in table.rows if _measured(row)))
    colours = dict(zip(names, _COLOURS * (1 + len(names) // len(_COLOURS)), strict=False))
    # Its bar would be a line of ones.
    drawn = [name for name in names if name != table.baselines[0]]
    group = len(drawn) * _BAR_PX + _GAP_PX
    width = max(_LEAST_WIDTH_PX, _LEFT + _RIGHT + group * len(table.networks()))
    legend = list(_legend({name: colours[name] for name in drawn}, width))
    top = 24 + _LEGEND_PX * (1 + max((line for line, _ in legend), default=0))
    height = top + len(_PANELS) * (_TOP + _PANEL_PX + _BOTTOM)
    body = [text for _, text in legend]
    for place, panel in enumerate(_PANELS):
        base = top + place * (_TOP + _PANEL_PX + _BOTTOM) + _TOP + _PANEL_PX
        body += _drawn(table, panel, base, width, {name: colours[name] for name in drawn})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" role="img">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        f'<text x="{_LEFT}" y="16" fill="{_SOFT}">{escape(table.machine)}</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _measured(row: Row) -> bool:
    return row.p50_ms is not None


def _legend(colours: dict[str, str], width: int) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each entry."""
    x, line = _LEFT, 0
    entries = [
        *((name, f'fill="{colour}"', "0") for name, colour in colours.items()),
        ("the paper, INT8 2:4 on A100", f'fill="{_PAPER}"', "45"),
        ("the paper, INT4 2:4 on A100", f'fill="none" stroke="{_PAPER}"', "45"),
    ]
    for name, paint, turned in entries:
        wide = 26 + 7 * len(name)
        if x + wide > width - _RIGHT and x > _LEFT:
            x, line = _LEFT, line + 1
        y = 24 + _LEGEND_PX * line
        text = (
            f'<rect x="{x}" y="{y}" width="9" height="9" {paint} '
            f'transform="rotate({turned} {x + 4.5} {y + 4.5})"/>'
            f'<text x="{x + 15}" y="{y + 9}" fill="{_TEXT}">{escape(name)}</text>'
        )
        yield line, text
        x += wide


def _drawn(
    table: Table, panel: _Panel, base: int, width: int, colours: dict[str, str]
) -> Iterator[str]:
    bars = list(_bars(table, panel, colours))
    marks = list(_marks(table, panel, len(colours)))
    values = [1.0, *(value for _, value, _, _ in bars), *(value for _, value, _, _ in marks)]
    ticks = axis(0.0, max(values))

    def y(value: float) -> float:
        return base - _PANEL_PX * value / ticks[-1]

    title = panel.title.format(table.baselines[0])
    yield f'<text x="{_LEFT}" y="{base - _PANEL_PX - 12}" fill="{_TEXT}">{escape(title)}</text>'
    for tick in ticks:
        yield (
            f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            f'stroke="{_LINE}"/><text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" '
            f'fill="{_SOFT}">{tick:g}x</text>'
        )
    yield (
        f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(1):.1f}" y2="{y(1):.1f}" '
        f'stroke="{_SOFT}" stroke-dasharray="4 4"/>'
    )
    for x, value, colour, said in bars:
        yield (
            f'<rect x="{x:.1f}" y="{y(value):.1f}" width="{_BAR_PX - 2}" '
            f'height="{base - y(value):.1f}" fill="{colour}"><title>{escape(said)}</title></rect>'
        )
    for x, value, paint, said in marks:
        yield (
            f'<rect x="{x - 4:.1f}" y="{y(value) - 4:.1f}" width="8" height="8" {paint} '
            f'transform="rotate(45 {x:.1f} {y(value):.1f})"><title>{escape(said)}</title></rect>'
        )
    for place, network in enumerate(table.networks()):
        middle = _start(place, len(colours)) + len(colours) * _BAR_PX / 2
        yield (
            f'<text x="{middle:.1f}" y="{base + 16}" text-anchor="middle" '
            f'fill="{_TEXT}">{escape(network)}</text>'
        )


def _start(place: int, bars: int) -> float:
    return _LEFT + _GAP_PX / 2 + place * (bars * _BAR_PX + _GAP_PX)


def _bars(
    table: Table, panel: _Panel, colours: dict[str, str]
) -> Iterator[tuple[float, float, str, str]]:
    """Yield the left edge, the value, the colour and the words of each bar."""
    for place, network in enumerate(table.networks()):
        for index, (name, colour) in enumerate(colours.items()):
            row = table.row(network, name)
            value = panel.of(table.ratio(row, table.baselines[0])) if row else None
            if value is not None:
                left = _start(place, len(colours)) + index * _BAR_PX
                yield left, value, colour, f"{network}, {name}: {value:.2f}x"


def _marks(table: Table, panel: _Panel, bars: int) -> Iterator[tuple[float, float, str, str]]:
    """Yield the middle, the value, the paint and the words of each mark of the paper."""
    for place, network in enumerate(table.networks()):
        for row in reported(network):
            value = row.a100[panel.index]
            paint = f'fill="{_PAPER}"'
            if row.precision != "INT8":
                paint = f'fill="none" stroke="{_PAPER}"'
            middle = _start(place, bars) + bars * _BAR_PX + 7
            said = f"the paper, {row.shown} {row.precision} on A100: {value:.2f}x"
            yield middle, value, paint, said
