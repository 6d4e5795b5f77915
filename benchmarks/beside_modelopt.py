"""A recipe beside NVIDIA's ModelOpt at equal steps: same teacher, pictures, steps and scores.

    pip install --constraint constraints.txt --editable '.[compress,modelopt]'
    python -m benchmarks.beside_modelopt recipes/digits.yaml --seeds 3 --json modelopt.json

One process makes, for each seed, first this project's networks by compress.pipeline as it is, then
ModelOpt's from the same dense network. ModelOpt's are trained by the same compress.train: the same
batches and augmentation in the same order, optimiser, rates, autocast and number of steps. The same
scorer scores all of them, before and after each part; nothing is evaluated while steps are timed.

What is taken from ModelOpt 0.47, as its documentation shows it and with its defaults:

- mts.sparsify, mode "sparse_magnitude", which has no settings of its own. Mode "sparsegpt" sees the
  pictures that the recipe's criterion would see; ModelOpt keeps its mask, not its correction of the
  weights. Both prune the head where its size allows, and no patch embedding of three channels.
- mtd.convert with LogitsDistillationLoss() from the dense network. Where the recipe has labels,
  StaticLossBalancer() adds the cross-entropy, half and half, as in ModelOpt's guide; without labels
  the guide wants no balancer. Networks return float32 logits, under autocast as well.
- mtq.quantize with INT8_DEFAULT_CFG, on the recipe's calibration pictures. Ranges are the largest
  magnitude and stay as they are while weights are trained, as the guide to quantisation-aware
  training says. This also rounds the inputs of LayerNorm.
- The guide's teacher after quantising is the original network; here too. It leaves rates and steps
  to the user; they are the recipe's.

Each further contender changes what its name says. The last one is given twice the steps, because
this project's criterion may take as long to choose and correct weights as many steps do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.by_modelopt import CONTENDERS, ByModelOpt, require_modelopt, schedules, steps
from compress import latency, pipeline, recipe_file, stages
from compress.errors import CompressError, RecipeError
from compress.evaluate import Score
from compress.networks.network import Network
from compress.parallel import launched
from compress.prune import TWO_OF_FOUR
from compress.quantize import quantized_layers
from compress.recipe import Recipe
from compress.run import Run
from compress.tasks.classify import Classification
from compress.work import Work
from contract.errors import ContractError

OURS = "this project"
# Evaluation while training goes on would be timed with the steps.
_CHANGES = ("prune.schedule.evaluate_every=null", "quantize.schedule.evaluate_every=null")


@dataclass(frozen=True)
class Side:
    """What one contender made of one dense network.

    Args:
        sparse: Top-1 before quantising, by name of the held-out data; empty where no step came
            before.
        quantized: Top-1 of the sparse INT8 network, the same.
        steps: Of training, in both parts together.
        training_s: Spent in those steps.
        whole_s: From the dense network to the last score.
        processor_s: Of all threads of this process in that time, which other processes' work
            changes less.
        pruned: Layers with a mask.
        broken: Share of their groups of four in which more than two weights are not zero, once
            masked and rounded.
    """

    sparse: dict[str, float]
    quantized: dict[str, float]
    steps: int
    training_s: float
    whole_s: float
    processor_s: float
    pruned: int
    broken: float


@dataclass(frozen=True)
class Table:
    """What was found.

    Args:
        title: Recipe, steps, seeds, versions and machine.
        dense: Top-1 of the dense network: by name of the held-out data, one entry a seed.
        sides: By contender, one entry a seed.
    """

    title: str
    dense: dict[str, list[float]] = field(default_factory=dict)
    sides: dict[str, list[Side]] = field(default_factory=dict)

    def text(self) -> str:
        """Return accuracy for each held-out folder, then costs, for a terminal; medians."""
        return "\n\n".join([self.title, *map(self._accuracy, self.dense), self._costs()])

    def json(self) -> str:
        """Return everything for a program."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def _accuracy(self, data: str) -> str:
        lines = [
            f"{data}: top-1 in percent, dense {_percent(self.dense[data]):.1f}",
            f"{'':30}{'sparse':>8}{'sparse INT8':>13}{'':>7}  lowest to highest",
        ]
        first = _percent(side.quantized[data] for side in self.sides[OURS])
        for name, sides in self.sides.items():
            quantized = [side.quantized[data] for side in sides]
            middle = _percent(quantized)
            sparse = [side.sparse[data] for side in sides if side.sparse]
            shown = f"{_percent(sparse):.1f}" if sparse else ""
            against = f"{middle - first:+.1f}" if name != OURS else ""
            lines.append(
                f"{name:30}{shown:>8}{middle:>13.1f}{against:>7}"
                f"  {100 * min(quantized):.1f} to {100 * max(quantized):.1f}"
            )
        return "\n".join(lines)

    def _costs(self) -> str:
        head = ("steps", "s a step", "steps s", "whole s", "processor s", "2:4 layers", "broken")
        lines = [f"{'':30}" + "".join(f"{title:>12}" for title in head)]
        for name, sides in self.sides.items():
            count = sides[0].steps
            training_s = statistics.median(side.training_s for side in sides)
            whole_s = statistics.median(side.whole_s for side in sides)
            processor_s = statistics.median(side.processor_s for side in sides)
            broken = max(side.broken for side in sides)
            lines.append(
                f"{name:30}{count:>12}{training_s / count:>12.3f}{training_s:>12.1f}"
                f"{whole_s:>12.1f}{processor_s:>12.1f}{sides[0].pruned:>12}{broken:>12.2%}"
            )
        return "\n".join(lines)


def run(
    base: Recipe, seeds: int = 1, only: Sequence[str] | None = None, *, restart: bool = False
) -> Table:
    """Compress a recipe's network by this project and by ModelOpt.

    A finished contender is read when it is asked for again; an unfinished one begins anew.

    Args:
        base: The recipe; runs lie beside its own, in ``<run>-beside-modelopt``.
        seeds: Runs of each contender, from the recipe's seed on.
        only: Names of :data:`CONTENDERS`; all of them if None.
        restart: Throw away what earlier runs left in that folder.

    Raises:
        CompressError: ModelOpt is not installed, the recipe asks for what it does not make, or the
            folder holds results of another recipe.
    """
    require_modelopt()
    processes = launched()
    if processes.count > 1:
        raise RecipeError(f"expected one process, got {processes.count}: start it without torchrun")
    table = Table(_title(base, seeds))
    folder = base.run.with_name(f"{base.run.name}-beside-modelopt")
    for seed in range(base.seed, base.seed + seeds):
        place = folder / f"seed-{seed}" / "ours"
        own = (f"seed={seed}", f"run={json.dumps(str(place))}", "trackers=[]")
        kept = None if restart else _kept(place)
        one = recipe_file.changed(base, [*own, *_CHANGES])
        work = pipeline.prepare(one, processes, restart=kept is None)
        dense = stages.dense_teacher(work)
        for data, top1 in _top1(dense.scores).items():
            table.dense.setdefault(data, []).append(top1)
        table.sides.setdefault(OURS, []).append(kept or _ours(work))
        for name in CONTENDERS if only is None else only:
            side = _theirs(work, dense.network, name, restart=restart)
            table.sides.setdefault(name, []).append(side)
    return table


def with_steps(base: Recipe, sparse: int, quantized: int) -> Recipe:
    """Return a recipe with that many steps in stage 1 and in stage 2."""
    task = Classification(base)
    first, second = (task.steps_per_epoch(schedule) for schedule in schedules(base))
    changes = (
        f"prune.schedule.epochs={sparse / first}",
        f"quantize.schedule.epochs={quantized / second}",
    )
    return recipe_file.changed(base, changes)


def broken_groups(weights: Iterable[Tensor]) -> float:
    """Return the share of groups that are not 2:4; a group is four neighbours on the last axis."""
    group = TWO_OF_FOUR.group
    left = torch.cat([(weight.reshape(-1, group) != 0).sum(dim=-1) for weight in weights])
    return (left > TWO_OF_FOUR.kept).double().mean().item()


def _title(recipe: Recipe, seeds: int) -> str:
    sparse, quantized = steps(recipe, Classification(recipe))
    versions = f"torch {torch.__version__}, ModelOpt {metadata.version('nvidia-modelopt')}"
    return (
        f"{recipe.name}, {sparse} + {quantized} steps, {seeds} seed{'s' * (seeds > 1)}; "
        f"{versions}, {latency.machine()}"
    )


def _ours(work: Work) -> Side:
    whole = _Stopwatch()
    outcome = pipeline.networks(work)
    whole_s, processor_s = whole.read()
    sparse, quantized = outcome.sparse, outcome.quantized
    layers = quantized_layers(quantized.network)
    weights = [
        layers[layer.name].weight_quantizer(layers[layer.name].weight).detach().flatten(1)
        for layer in outcome.layers
        if layer.prune
    ]
    side = Side(
        sparse=_top1(sparse.scores),
        quantized=_top1(quantized.scores),
        steps=sum(steps(work.recipe, work.task)),
        training_s=sparse.history.seconds + quantized.history.seconds,
        whole_s=whole_s,
        processor_s=processor_s,
        pruned=len(weights),
        broken=broken_groups(weights),
    )
    return _keep(work.run, side)


def _theirs(work: Work, dense: Network, name: str, *, restart: bool) -> Side:
    folder = work.run.folder.with_name(name.replace(" ", "-"))
    kept = None if restart else _kept(folder)
    made = (work.recipe.digest(), CONTENDERS[name], metadata.version("nvidia-modelopt"))
    run = Run(folder, " ".join(map(str, made)), restart=kept is None)
    if kept:
        return kept
    modelopt = ByModelOpt(work, run, dense, CONTENDERS[name])
    whole = _Stopwatch()
    sparse, quantized = modelopt.networks()
    whole_s, processor_s = whole.read()
    weights = modelopt.pruned()
    side = Side(
        sparse=_top1(sparse),
        quantized=_top1(quantized),
        steps=modelopt.steps,
        training_s=modelopt.training_s,
        whole_s=whole_s,
        processor_s=processor_s,
        pruned=len(weights),
        broken=broken_groups(weights.values()),
    )
    return _keep(run, side)


class _Stopwatch:
    """Time since it was made."""

    def __init__(self) -> None:
        self.since = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return the seconds that passed, and those that this process's threads computed."""
        return time.monotonic() - self.since[0], time.process_time() - self.since[1]


def _top1(scores: dict[str, Score]) -> dict[str, float]:
    return {data: score.main for data, score in scores.items()}


def _kept(folder: Path) -> Side | None:
    path = folder / "side.json"
    return Side(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _keep(run: Run, side: Side) -> Side:
    run.write_json("side", dataclasses.asdict(side))
    return side


def _percent(shares: Iterable[float]) -> float:
    return 100 * statistics.median(shares)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison.

    Returns:
        0, or 2 after one line that says what was wrong and what to do.
    """
    parsed = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        recipe = recipe_file.load(parsed.recipe, parsed.set)
        if parsed.steps:
            recipe = with_steps(recipe, *parsed.steps)
        table = run(recipe, parsed.seeds, parsed.only, restart=parsed.restart)
    except (CompressError, ContractError) as error:
        print(f"beside_modelopt: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(table.text())
    if parsed.json:
        parsed.json.parent.mkdir(parents=True, exist_ok=True)
        parsed.json.write_text(table.json(), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, see docs/recipes.md")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one line of the recipe; may be repeated",
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        metavar=("SPARSE", "INT8"),
        help="optimiser steps before and after quantising, instead of the recipe's epochs",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each; medians are shown")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(CONTENDERS),
        metavar="NAME",
        help=f"of {', '.join(CONTENDERS)}; all if not given",
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew instead of reading finished contenders"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
