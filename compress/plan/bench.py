"""The paper's Table 2 on this GPU: ``gpusq bench`` where there are a GPU and TensorRT.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from compress.errors import PlanError
from compress.plan import bundle as bundle_files
from compress.plan.bench_network import Machine, Network, Settings
from compress.plan.bench_table import GPU_NOTE, Row, Table
from compress.plan.contenders import BASELINES
from compress.plan.energy import Meter, find_meter
from contract import cuda
from contract.engine import tensorrt


def run(bundles: Sequence[Path], settings: Settings) -> Iterator[Table]:
    """Measure bundles, and yield the table as it is after each of them.

    Args:
        bundles: Folders with ``model.onnx`` and ``card.json``, or models' folders in a repository.
        settings: How.

    Raises:
        PlanError: A bundle is damaged, or two have the same name.
        EngineError: There is no GPU, or TensorRT is not installed.
    """
    machine = Machine(cuda.runtime().device(), tensorrt().__version__)
    # All of them first: a broken one is not found out after an hour.
    sources = [bundle_files.read_bundle_or_model(folder) for folder in bundles]
    names = names_of(bundles)
    meter, energy = _meter(settings)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        # Kept or not, the plans of one network share what the builder measured.
        caches = settings.timing_caches or Path(temporary)
        settings = dataclasses.replace(settings, timing_caches=caches)
        for name, bundle in zip(names, sources, strict=True):
            network = Network(name, bundle, machine, settings)
            network.measure(meter)
            rows += network.rows()
            yield Table(str(machine), BASELINES, tuple(rows), (GPU_NOTE, energy))


def names_of(bundles: Sequence[Path]) -> list[str]:
    """Return what each bundle is called in a table.

    Raises:
        PlanError: Two have the same name.
    """
    names = [bundle_files.name_of(folder) for folder in bundles]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(
            f"expected bundles of different names, two are called {twice[0]!r}. Rename the folder "
            "of one."
        )
    return names


def _meter(settings: Settings) -> tuple[Meter | None, str]:
    if not settings.energy_s:
        return None, "Energy was not measured: it was switched off."
    try:
        meter = find_meter()
    except PlanError as error:
        return None, f"Energy was not measured: {error}."
    return meter, f"J / 1,000: energy for 1,000 images at the best batch, {meter.name}."
