"""The command ``gpusq bench``: its options, and which machine measures.

Imports nothing at module level that a GPU machine may lack.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compress.arguments import (
    Commands,
    add_builder_options,
    add_command,
    output_file,
    whole_number,
)
from compress.errors import PlanError
from contract.errors import EngineError

if TYPE_CHECKING:
    from compress.plan.bench_table import Table

# By which --size asks for them: DeiT's own sizes have no prefix.
SIZES: Final = {
    "tiny": "deit-tiny",
    "small": "deit-small",
    "base": "deit-base",
    "swin-tiny": "swin-tiny",
    "swin-small": "swin-small",
    "swin-base": "swin-base",
}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "bench",
        _bench,
        "time a compressed network beside its other formats, on this GPU or on this CPU",
        "gpusq bench runs/digits/bundle --json bench.json --svg bench.svg",
    )
    parser.add_argument(
        "bundles",
        nargs="*",
        type=Path,
        metavar="BUNDLE",
        help="folders with model.onnx and card.json, or models' folders in a repository",
    )
    parser.add_argument(
        "--size",
        nargs="+",
        choices=tuple(SIZES),
        help="without BUNDLE: DeiT or Swin of random weights; small if not given",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write the networks of --size, all six if not given, as bundles into DIR, and measure "
        "nothing: for a GPU machine without PyTorch",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=whole_number,
        metavar="N",
        help="batch sizes to look for the best throughput at; 1 8 16 32 64 128, or 1 8 on a CPU",
    )
    parser.add_argument(
        "--repeats",
        type=whole_number,
        help="timed calls of each contender at batch 1, 400, and a quarter at other sizes; on a "
        "CPU 20 at each size",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="DIR",
        help="keep the builder's times of kernels here, one file a network, for the next run",
    )
    add_builder_options(parser)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write everything")
    parser.add_argument(
        "--markdown", type=output_file, metavar="FILE", help="write the table for a page"
    )
    parser.add_argument(
        "--svg", type=output_file, metavar="FILE", help="draw it beside the paper's numbers"
    )


def _bench(arguments: argparse.Namespace) -> None:
    if arguments.bundles and (arguments.export or arguments.size):
        given = "--export" if arguments.export else "--size"
        raise PlanError(
            f"{given} is for networks of random weights. Give either it or bundles to measure."
        )
    if arguments.export:
        from compress import random_networks  # noqa: PLC0415

        for size in arguments.size or SIZES:
            print(random_networks.write(SIZES[size], arguments.export / SIZES[size]))
        return
    with _bundles(arguments) as bundles:
        for done, table in enumerate(_tables(arguments, bundles)):
            # After each network: what was measured before an interruption stays.
            print(table.latest(first=not done), flush=True)
            _write(arguments, table)
    print("\n".join(["", *table.notes]))
    if not any(row.p50_ms for row in table.rows):
        raise PlanError("nothing could be measured; the reasons stand in the table")


@contextmanager
def _bundles(arguments: argparse.Namespace) -> Iterator[Sequence[Path]]:
    if arguments.bundles:
        yield arguments.bundles
        return
    from compress import random_networks  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        names = [SIZES[size] for size in arguments.size or ["small"]]
        yield [random_networks.write(name, Path(folder) / name) for name in names]


def _tables(arguments: argparse.Namespace, bundles: Sequence[Path]) -> Iterator[Table]:
    why = _no_gpu()
    if why:
        try:
            from compress import bench as on_cpu  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise PlanError(
                f"no plan can be measured ({why}), and measuring on the CPU needs {error.name}. "
                "Install: pip install onnxruntime openvino"
            ) from error
        batches = tuple(arguments.batches or on_cpu.BATCHES)
        yield from on_cpu.run(bundles, why, batches, arguments.repeats or on_cpu.CALLS)
        return
    from compress.plan import bench  # noqa: PLC0415
    from compress.plan.bench_network import BATCHES, CALLS, Settings  # noqa: PLC0415

    settings = Settings(
        batches=tuple(arguments.batches or BATCHES),
        calls=arguments.repeats or CALLS,
        level=arguments.level,
        own_kernels=arguments.own_kernels,
        timing_caches=arguments.timing_cache,
    )
    yield from bench.run(bundles, settings)


def _no_gpu() -> str:
    """Say why no plan can be measured here; nothing where one can."""
    from contract import cuda  # noqa: PLC0415
    from contract.engine import tensorrt  # noqa: PLC0415

    try:
        tensorrt()
        cuda.runtime().device()
    except EngineError as error:
        return str(error)
    return ""


def _write(arguments: argparse.Namespace, table: Table) -> None:
    from compress.plan.bench_plot import svg  # noqa: PLC0415

    for path, text in (
        (arguments.json, table.json),
        (arguments.markdown, table.markdown),
        (arguments.svg, lambda: svg(table)),
    ):
        if path:
            # A file that was there stays whole, also where the disk is full.
            unfinished = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                unfinished.write_text(text(), encoding="utf-8")
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
