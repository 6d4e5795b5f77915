"""What a comparison of formats found: rows, ratios, and how they are shown.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from compress.plan.paper import reported


@dataclass(frozen=True)
class Row:
    """One contender of one network.

    Args:
        network: Name of the bundle.
        contender: Name of the format.
        p50_ms, p99_ms: Of one call at batch 1; None where nothing was measured.
        images_per_s: By batch size, from the median of its calls.
        dense_twin: Contender that differs in sparse kernels alone; empty where there is none.
        reason: Why nothing was measured, or what is missing.
        failed: Whether that ought to have worked on this machine.
        joules: Drawn for 1,000 images at the best batch; None where it is not known.
        sparse: Sparse layers by the builder, for batch 1 and for large ones: eligible, picked.
        differs: Mean difference from the answers of ONNX Runtime to the same graph.
        agrees: Whether that is little enough; None where there were no answers to compare with.
        built: What is known of the plans, for JSON.
    """

    network: str
    contender: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    images_per_s: Mapping[int, float] = field(default_factory=dict)
    dense_twin: str = ""
    reason: str = ""
    failed: bool = False
    joules: float | None = None
    sparse: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    differs: float | None = None
    agrees: bool | None = None
    built: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_batch(self) -> int | None:
        """Batch size of the highest throughput."""
        return max(self.images_per_s, key=lambda batch: self.images_per_s[batch], default=None)

    @property
    def throughput(self) -> float | None:
        """Images a second at the best batch."""
        best = self.best_batch
        return None if best is None else self.images_per_s[best]


@dataclass(frozen=True)
class Ratio:
    """One contender over another; above 1 is faster.

    Args:
        latency: At batch 1.
        throughput: Each at its best batch.
        least: The smallest at one batch size that both were measured at.
    """

    latency: float | None
    throughput: float | None
    least: float | None


@dataclass(frozen=True)
class _Column:
    """What a table shows of each row, under a title that may belong to a group."""

    group: str
    title: str
    show: Callable[[Row], str]


@dataclass(frozen=True)
class Table:
    """A comparison.

    Args:
        machine: Which measured, and by what.
        baselines: Contenders that ratios are of.
        rows: Network by network.
        notes: What a reader has to know of the columns.
    """

    machine: str
    baselines: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def ratio(self, row: Row, other: str) -> Ratio:
        """Compare a row with another contender of its network."""
        base = self.row(row.network, other)
        if base is None:
            return Ratio(None, None, None)
        shared = row.images_per_s.keys() & base.images_per_s.keys()
        return Ratio(
            latency=_over(base.p50_ms, row.p50_ms),
            throughput=_over(row.throughput, base.throughput),
            least=min((row.images_per_s[n] / base.images_per_s[n] for n in shared), default=None),
        )

    def row(self, network: str, contender: str) -> Row | None:
        """Find a row by its names."""
        named = (one for one in self.rows if (one.network, one.contender) == (network, contender))
        return next(named, None)

    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks, in order."""
        return tuple(dict.fromkeys(row.network for row in self.rows))

    def json(self) -> str:
        """Return the table for a program."""
        rows = []
        for row in self.rows:
            compared = [*self.baselines, *([row.dense_twin] if row.dense_twin else [])]
            ratios = {other: dataclasses.asdict(self.ratio(row, other)) for other in compared}
            best = {"best_batch": row.best_batch, "throughput": row.throughput}
            rows.append({**dataclasses.asdict(row), **best, "ratios": ratios})
        paper = {
            network: [dataclasses.asdict(one) for one in reported(network)]
            for network in self.networks()
        }
        return (
            json.dumps(
                {"machine": self.machine, "notes": self.notes, "rows": rows, "paper": paper},
                indent=2,
            )
            + "\n"
        )

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [self.machine, *(line for name in self.networks() for line in self._lines(name))]
        return "\n".join([*lines, "", *self.notes])

    def latest(self, *, first: bool) -> str:
        """Return the last network of the table for a terminal, and above the first the machine."""
        return "\n".join([self.machine] * first + self._lines(self.networks()[-1]))

    def _lines(self, network: str) -> list[str]:
        columns = self._columns()
        cells = [["", *(column.title for column in columns)], *self._cells(network)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
        lines = ["", network, _groups(columns, widths)]
        lines += [
            "  ".join(
                [line[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            ).rstrip()
            for line in cells
        ]
        return lines + self._remarks(network)

    def markdown(self) -> str:
        """Return the table for a page."""
        columns = self._columns()
        titles = ["", *(f"{column.group} {column.title}".strip() for column in columns)]
        lines = [self.machine, ""]
        for network in self.networks():
            lines += [f"**{network}**", ""]
            lines += [_line(titles), _line(["---"] + ["---:"] * len(columns))]
            lines += [_line(cells) for cells in self._cells(network)]
            lines += ["", *(f"{remark}  " for remark in self._remarks(network)), ""]
        return "\n".join([*lines, *(f"{note}  " for note in self.notes)]).rstrip() + "\n"

    def _cells(self, network: str) -> list[list[str]]:
        columns = self._columns()
        return [
            [row.contender, *(column.show(row) for column in columns)]
            for row in self.rows
            if row.network == network and row.p50_ms is not None
        ]

    def _columns(self) -> list[_Column]:
        """Return the columns that say something of at least one row."""

        def over(other: str, what: str) -> Callable[[Row], str]:
            return lambda row: _number(getattr(self.ratio(row, other), what), ".2f", "x")

        def ratios(group: str) -> list[_Column]:
            return [
                _Column(group, f"/ {name}" if self.baselines[1:] else "ratio", over(name, group))
                for name in self.baselines
            ]

        columns = [
            _Column("latency", "p50 ms", lambda row: _number(row.p50_ms, ".3f")),
            _Column("latency", "p99 ms", lambda row: _number(row.p99_ms, ".3f")),
            *ratios("latency"),
            _Column("throughput", "img/s", lambda row: _number(row.throughput, ".0f")),
            _Column("throughput", "at batch", lambda row: str(row.best_batch or "")),
            *ratios("throughput"),
            *(
                _Column("", f"least / {name}", over(name, "least"))
                for name in self.baselines[1:][-1:]
            ),
            _Column("", "J / 1,000", lambda row: _number(row.joules, ".1f")),
            _Column("", "sparse layers", _sparse),
            _Column("", "differs", lambda row: _number(row.differs, ".0e") + _mark(row)),
        ]
        return [one for one in columns if any(one.show(row).strip() for row in self.rows)]

    def _remarks(self, network: str) -> list[str]:
        remarks = []
        for row in self.rows:
            if row.network != network:
                continue
            if row.reason:
                remarks.append(f"{row.contender}: {row.reason}")
            if row.dense_twin and row.p50_ms is not None:
                ratio = self.ratio(row, row.dense_twin)
                remarks.append(
                    f"{row.contender} over {row.dense_twin}: latency "
                    f"{_number(ratio.latency, '.2f', 'x')}, throughput "
                    f"{_number(ratio.throughput, '.2f', 'x')}"
                )
        return remarks + [_said(network)] * bool(reported(network))


def _said(network: str) -> str:
    told = []
    for row in reported(network):
        places = {"A100": row.a100, "Orin": row.orin}
        told += [
            f"{row.precision} on {gpu}: latency {found[0]:.2f}x, throughput {found[1]:.2f}x"
            for gpu, found in places.items()
            if found
        ]
    return f"The paper, over FP32: {'; '.join(told)}"


def _groups(columns: Sequence[_Column], widths: Sequence[int]) -> str:
    """Return the line above the titles: each group where its first column begins."""
    line, seen = " " * widths[0], ""
    for column, width in zip(columns, widths[1:], strict=True):
        shown = column.group if column.group != seen else ""
        line = f"{line}  {shown.ljust(width)}"
        seen = column.group
    return line.rstrip()


def _sparse(row: Row) -> str:
    return " and ".join(f"{picked}/{eligible}" for eligible, picked in row.sparse.values())


def _mark(row: Row) -> str:
    return "!" * (row.agrees is False)


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# Shown beneath every table of a GPU.
GPU_NOTE: Final = (
    "Latency is one call at batch 1 by events of the GPU, input already there; throughput is of "
    "the best batch, named beside it. Ratios above 1 are faster; 'least' is the smallest ratio at "
    "one batch size. Sparse layers: picked of eligible, built for batch 1 and for the largest "
    "batch. Differs: mean difference of scores from ONNX Runtime on the same graph, '!' where too "
    "large."
)
