"""A bundle against its float twin on this CPU: ``gpusq bench`` where no GPU runs plans."""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import onnx

from compress import latency
from compress.plan import bench
from compress.plan.bench_table import Row, Table
from compress.plan.bundle import read_bundle_or_model
from compress.plan.contenders import format_name
from compress.plan.turns import in_turns, percentile
from compress.plan.twins import float_twin

_LOG = logging.getLogger(__name__)
BATCHES: Final = (1, 8)
CALLS: Final = 20
_BASELINE: Final = "ONNX Runtime, float32"
_NOTE: Final = (
    "Ratios above 1 are faster; they are of ONNX Runtime with the same network in float32. "
    "Throughput is of the best batch, named beside it. 2:4 sparsity by itself gains nothing here."
)


def run(
    bundles: Sequence[Path], why: str, batches: tuple[int, ...] = BATCHES, calls: int = CALLS
) -> Iterator[Table]:
    """Measure bundles in the embedded runtimes, and yield the table after each of them.

    Args:
        bundles: Folders with ``model.onnx`` and ``card.json``, or models' folders in a repository.
        why: No plan is measured, for the table.
        batches: Sizes to look for the best throughput at.
        calls: Timed calls of each contender at each size.

    Raises:
        PlanError: A bundle is damaged, or two have the same name.
    """
    sources = [read_bundle_or_model(folder) for folder in bundles]
    names = bench.names_of(bundles)
    machine = f"On the CPU: {latency.machine()}. No plan was measured: {why}"
    rows: list[Row] = []
    for network, source in zip(names, sources, strict=True):
        precision = format_name(source.card.precision)
        with tempfile.TemporaryDirectory() as temporary:
            twin = Path(temporary) / "float.onnx"
            onnx.save(float_twin(onnx.load(source.model)), twin)
            contenders = latency.contenders(twin, source.model, precision)
        _LOG.info("%s: timing %d contenders", network, len(contenders))
        times = {
            batch: in_turns(contenders, batch, calls, latency.BURST)
            for batch in sorted({1, *batches})
        }
        rows += [
            Row(
                network=network,
                contender=contender,
                p50_ms=percentile(times[1][contender], 0.5),
                p99_ms=percentile(times[1][contender], 0.99),
                images_per_s={
                    batch: 1000 * batch / statistics.median(taken[contender])
                    for batch, taken in times.items()
                },
            )
            for contender in contenders
        ]
        yield Table(machine, (_BASELINE,), tuple(rows), (_NOTE,))
