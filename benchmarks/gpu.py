"""Build, check and measure plans on this GPU: the program behind ``make test-gpu``.

    python -m benchmarks.gpu bundles --out measured

Needs TensorRT, NumPy and onnx, and nothing else. The bundles are written on a machine that has
PyTorch, by ``gpusq bench --export bundles``. Each format of each network is built, compared with
what ONNX Runtime answers for it, and timed. Ends with 1 where a plan was not built, does not run,
or answers otherwise.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.arguments import add_builder_options, whole_number
from compress.errors import CompressError
from compress.plan import bench
from compress.plan.bench_network import BATCHES, CALLS, Settings
from compress.plan.bench_plot import svg
from compress.plan.bench_table import Row, Table
from contract.errors import ContractError

# What the paper reaches at most, on an A100 over FP32: arXiv:2305.10727, abstract.
_LATENCY, _THROUGHPUT = 1.79, 3.43


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", type=Path, help="a folder of bundles, or one bundle")
    parser.add_argument("--out", type=Path, help="folder for JSON, Markdown and SVG")
    parser.add_argument("--batches", nargs="+", type=whole_number, default=list(BATCHES))
    parser.add_argument("--calls", type=whole_number, default=CALLS)
    add_builder_options(parser)
    parsed = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = parsed.out or parsed.bundles / "measured"
    settings = Settings(
        batches=tuple(parsed.batches),
        calls=parsed.calls,
        level=parsed.level,
        own_kernels=parsed.own_kernels,
        timing_caches=out,
    )
    try:
        table = _measured(_bundles(parsed.bundles), settings, out)
    except (CompressError, ContractError) as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    print(table.text())
    print("\n".join(["", *goals(table)]))
    wrong = faults(table)
    print("\n".join(["", *wrong]) if wrong else "\nEvery plan answers as ONNX Runtime does.")
    return int(bool(wrong) or not any(row.p50_ms for row in table.rows))


def faults(table: Table) -> list[str]:
    """Name each plan that is not there though it should be, or that answers otherwise."""
    return [
        f"{row.network}, {row.contender}: {fault}" for row in table.rows if (fault := _fault(row))
    ]


def goals(table: Table) -> list[str]:
    """Hold each sparse plan against the paper's best ratios and against FP16."""
    lines = []
    for row in table.rows:
        if not row.dense_twin or row.p50_ms is None:
            continue
        paper, half = table.ratio(row, "FP32"), table.ratio(row, "FP16")
        reached = {
            f"latency {_LATENCY}x over FP32": (paper.latency or 0) >= _LATENCY,
            f"throughput {_THROUGHPUT}x over FP32": (paper.throughput or 0) >= _THROUGHPUT,
            "never slower than FP16": min(half.latency or 0, half.least or 0) >= 1,
        }
        told = "; ".join(f"{goal}: {'yes' if held else 'no'}" for goal, held in reached.items())
        lines.append(f"{row.network}, {row.contender}: {told}")
    return lines


def _fault(row: Row) -> str:
    if row.failed:
        return row.reason
    if row.agrees is False:
        return f"its answers differ from ONNX Runtime's by {row.differs:.4f} on average"
    if row.p50_ms is not None and row.agrees is None:
        return "no recorded answers to compare with; gpusq bench --export writes bundles with them"
    return ""


def _bundles(folder: Path) -> list[Path]:
    if (folder / "card.json").is_file():
        return [folder]
    # What an interrupted export leaves behind begins with a dot.
    found = sorted(path.parent for path in folder.glob("[!.]*/card.json"))
    if not found:
        raise CompressError(
            f"expected bundles in {folder}, found none. Write them where PyTorch is: "
            f"gpusq bench --export {folder}"
        )
    return found


def _measured(bundles: list[Path], settings: Settings, out: Path) -> Table:
    out.mkdir(parents=True, exist_ok=True)
    for table in bench.run(bundles, settings):
        # After each network: what was measured before an interruption stays.
        (out / "bench.json").write_text(table.json(), encoding="utf-8")
        (out / "bench.md").write_text(table.markdown(), encoding="utf-8")
        (out / "bench.svg").write_text(svg(table), encoding="utf-8")
    return table


if __name__ == "__main__":
    sys.exit(main())
