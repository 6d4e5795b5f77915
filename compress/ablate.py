"""What each ingredient of a recipe is worth: the recipe again with one of them changed.

Networks are trained and scored, not exported. Every run keeps its folder, so an ablation that was
stopped goes on where it was. What a change cannot touch is trained once: the dense teacher, and
stage 1 where only stage 2 differs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from compress import pipeline, recipe_file
from compress.errors import CompressError, RecipeError
from compress.parallel import Processes, launched
from compress.recipe import Recipe
from compress.run import write_atomically

_LOG = logging.getLogger(__name__)

EVERYTHING = "the recipe as it is"


@dataclass(frozen=True)
class Ingredient:
    """One change to a recipe.

    Args:
        name: What the table calls it.
        changes: As ``gpusq compress --set`` takes them.
        stage: The first stage that differs: 1 or 2.
    """

    name: str
    changes: tuple[str, ...]
    stage: int = 1


INGREDIENTS: tuple[Ingredient, ...] = (
    Ingredient("no teacher: the hard label alone", ("distill.soft=0", "distill.feature=0")),
    Ingredient("no hard label", ("distill.hard=0",)),
    Ingredient("hard label from the teacher", ("distill.hard_label=teacher",)),
    Ingredient("no soft logits", ("distill.soft=0",)),
    Ingredient("soft logits at temperature 1", ("distill.temperature=1",)),
    Ingredient("soft logits at temperature 4", ("distill.temperature=4",)),
    Ingredient("no late features", ("distill.feature=0",)),
    Ingredient("features on agreeing samples", ("distill.agree_only=true",)),
    Ingredient("features on all samples", ("distill.agree_only=false",)),
    Ingredient("head frozen", ("distill.freeze_head=true",)),
    Ingredient("head trained", ("distill.freeze_head=false",)),
    Ingredient("layer weights uniform", ("distill.layer_weights=uniform",), 2),
    Ingredient("layer weights inverse", ("distill.layer_weights=inverse",), 2),
    Ingredient("layer weights softmax", ("distill.layer_weights=softmax",), 2),
    Ingredient("layer weights direct", ("distill.layer_weights=direct",), 2),
    Ingredient("masks by magnitude", ("prune.criterion=magnitude", "prune.masks=fixed")),
    Ingredient("masks by Wanda", ("prune.criterion=wanda", "prune.masks=fixed")),
    Ingredient("masks by reconstruction", ("prune.criterion=reconstruct", "prune.masks=fixed")),
    Ingredient("masks by ADMM", ("prune.criterion=admm", "prune.masks=fixed")),
    Ingredient("channels permuted first", ("prune.permute=true",)),
    Ingredient("masks recomputed", ("prune.criterion=magnitude", "prune.masks=recomputed")),
    Ingredient("masks gradual", ("prune.criterion=magnitude", "prune.masks=gradual")),
    Ingredient("4:8 pairs", ("prune.pattern=4:8",)),
    Ingredient("no training after pruning", ("prune.schedule=null",)),
    Ingredient("no training after quantising", ("quantize.schedule=null",), 2),
    Ingredient("dense network teaches stage 2", ("quantize.teacher=dense",), 2),
    Ingredient("fixed activation scales", ("quantize.learned_scales=false",), 2),
    Ingredient("ranges by the maximum", ("quantize.observer=max",), 2),
    Ingredient("ranges by the percentile", ("quantize.observer=percentile",), 2),
    Ingredient("ranges by squared error", ("quantize.observer=mse",), 2),
    Ingredient("residual branches rounded", ("quantize.placement=gemm+add",), 2),
    Ingredient("attention products rounded", ("quantize.placement=gemm+add+bmm",), 2),
    Ingredient("FP8", ("quantize.weights=fp8", "quantize.activations=fp8"), 2),
    Ingredient(
        "INT4",
        ("quantize.weights=int4", "quantize.activations=int4", "quantize.observer=mse"),
        2,
    ),
    Ingredient(
        "INT4 weights, INT8 activations",
        ("quantize.weights=int4", "quantize.activations=int8"),
        2,
    ),
    Ingredient("INT4 weights alone", ("quantize.weights=int4", "quantize.activations=float32"), 2),
    Ingredient(
        "INT4 weights alone, in blocks of 64",
        ("quantize.weights=int4", "quantize.activations=float32", "quantize.block_size=64"),
        2,
    ),
    Ingredient(
        "4:8 pairs and INT4",
        (
            "prune.pattern=4:8",
            "quantize.weights=int4",
            "quantize.activations=int4",
            "quantize.observer=mse",
        ),
    ),
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: Of what was changed.
        changes: As ``--set`` takes them.
        stage: The first stage that differs.
        sparse: Top-1 after stage 1: by name of the held-out data, one entry a seed.
        quantized: Top-1 after stage 2, the same.
        unfit: Why the change does not fit the recipe or its network; empty where it does.
    """

    name: str
    changes: tuple[str, ...]
    stage: int = 1
    sparse: dict[str, list[float]] = field(default_factory=dict)
    quantized: dict[str, list[float]] = field(default_factory=dict)
    unfit: str = ""


@dataclass(frozen=True)
class Table:
    """What was found.

    Args:
        title: Recipe and number of seeds.
        dense: Top-1 of the dense network: by name of the held-out data, one entry a seed.
        rows: The recipe as it is first.
    """

    title: str
    dense: dict[str, list[float]]
    rows: list[Row]

    def text(self) -> str:
        """Return one table for each held-out folder, for a terminal; medians in percent."""
        return "\n\n".join(self._one(data) for data in self.dense)

    def json(self) -> str:
        """Return everything for a program."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def _one(self, data: str) -> str:
        first, width = self.rows[0], name_width(row.name for row in self.rows)
        lines = [
            f"{self.title}, {data}: top-1 in percent, dense {_median(self.dense[data]):.1f}",
            f"{'changed':{width}}{'sparse':>8}{'':>7}{'quantised':>11}{'':>7}  lowest to highest",
        ]
        for row in self.rows:
            if row.unfit:
                lines.append(f"{row.name:{width}}  does not fit: {row.unfit}")
                continue
            sparse, quantized = row.sparse[data], row.quantized[data]
            gained = _against(sparse, first.sparse[data])
            lines.append(
                f"{row.name:{width}}{_median(sparse):>8.1f}{gained:>7}"
                f"{_median(quantized):>11.1f}{_against(quantized, first.quantized[data]):>7}"
                f"  {100 * min(quantized):.1f} to {100 * max(quantized):.1f}"
            )
        return "\n".join(lines)


def name_width(names: Iterable[str]) -> int:
    """Return the width of a column of names."""
    return max(map(len, names)) + 2


def run(
    base: Recipe,
    seeds: int = 1,
    only: Sequence[str] | None = None,
    *,
    restart: bool = False,
    ingredients: Sequence[Ingredient] = INGREDIENTS,
) -> Table | None:
    """Run a recipe as it is, then with each ingredient changed, at equal steps.

    Args:
        base: The recipe; runs lie beside its own, in ``<run>-ablation``.
        seeds: Runs of each line, from the recipe's seed on.
        only: Names of ingredients; all that change the recipe if None, where those that do not
            fit the recipe or its network are shown with the reason.
        restart: Throw away what earlier runs left in that folder.
        ingredients: That there are.

    Returns:
        The table; None in processes other than the main one.

    Raises:
        RecipeError: An unknown name, or a named ingredient that does not fit the recipe.
        CompressError: Whatever stops the recipe as it is, or a named ingredient.
    """
    rows = _chosen(base, only, ingredients)
    folder = base.run.with_name(f"{base.run.name}-ablation")
    processes = launched()
    with processes.main_first():
        if restart and processes.main and folder.exists():
            shutil.rmtree(folder)
    dense: dict[str, list[float]] = {}
    for seed in range(base.seed, base.seed + seeds):
        first = folder / f"seed-{seed}" / _slug(EVERYTHING)
        for index, row in enumerate(rows):
            if row.unfit:
                continue
            try:
                scores = _scores(base, row, seed, first, processes)
            except CompressError as error:
                if index == 0 or only is not None:
                    raise
                rows[index] = dataclasses.replace(row, unfit=" ".join(str(error).split()))
                _LOG.warning("%s does not fit: %s", row.name, rows[index].unfit)
                continue
            _add(row.sparse, scores["sparse"])
            _add(row.quantized, scores["quantized"])
            if index == 0:
                _add(dense, scores["dense"])
    title = f"{base.name}, {seeds} seed{'s' * (seeds > 1)}"
    return Table(title, dense, rows) if processes.main else None


def _chosen(
    base: Recipe, only: Sequence[str] | None, ingredients: Sequence[Ingredient]
) -> list[Row]:
    known = {ingredient.name: ingredient for ingredient in ingredients}
    if unknown := [name for name in only or () if name not in known]:
        raise RecipeError(
            f"no ingredient is called {', '.join(unknown)}; gpusq ablate RECIPE --list names them"
        )
    chosen = [Row(EVERYTHING, ())]
    for ingredient in ingredients if only is None else [known[name] for name in only]:
        row = Row(ingredient.name, ingredient.changes, ingredient.stage)
        try:
            changed = recipe_file.changed(base, ingredient.changes)
        except RecipeError as error:
            if only is not None:
                raise
            chosen.append(dataclasses.replace(row, unfit=str(error)))
            continue
        if changed.digest() != base.digest() or only is not None:
            chosen.append(row)
    return chosen


def _scores(
    base: Recipe, row: Row, seed: int, first: Path, processes: Processes
) -> dict[str, dict[str, float]]:
    """Train one changed recipe, or read what an earlier run of it scored."""
    place = first.with_name(_slug(row.name))
    one = recipe_file.changed(base, [*row.changes, f"seed={seed}", f"run={json.dumps(str(place))}"])
    kept = one.run / "scores.json"
    stamp = one.run / "recipe.digest"
    if kept.exists() and stamp.read_text(encoding="utf-8").strip() == one.digest():
        earlier: dict[str, dict[str, float]] = json.loads(kept.read_text(encoding="utf-8"))
        return earlier
    work = pipeline.prepare(one, processes)
    if place != first and processes.main:
        _share(first, one, row.stage)
    processes.wait()
    outcome = pipeline.networks(work)
    scores = {
        name: {data: score.main for data, score in result.scores.items()}
        for name, result in outcome.stages.items()
    }
    if processes.main:
        work.run.write_json("scores", scores)
    return scores


def _share(first: Path, one: Recipe, stage: int) -> None:
    """Take over the stages that the change cannot touch."""
    for name in ("teacher", "sparse")[:stage]:
        source, target = first / f"{name}.pt", one.run / f"{name}.pt"
        if source.exists() and not target.exists():
            write_atomically(target, partial(shutil.copy2, source))


def _add(found: dict[str, list[float]], scores: dict[str, float]) -> None:
    for data, value in scores.items():
        found.setdefault(data, []).append(value)


def _median(values: list[float]) -> float:
    return 100 * statistics.median(values)


def _against(values: list[float], others: list[float]) -> str:
    difference = _median(values) - _median(others)
    return f"{difference:+.1f}" if values is not others else ""


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
