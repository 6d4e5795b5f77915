"""What a run tells people: the card, ``report.json`` and ``report.html``."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import torch

from compress import accounting, charts, findings, latency, sketches
from compress.distill import layer_weights
from compress.evaluate import METRICS
from compress.export import Exported
from compress.formats import shown
from compress.networks import left
from compress.networks.network import Layer
from compress.permute import PERMUTED, gained
from compress.placement import layer_formats, product_bits
from compress.prune import Masks
from compress.quantize import quantized_layers
from compress.recipe import Recipe
from compress.run import Run, write_atomically
from compress.tasks.task import Task
from compress.work import Result
from contract.card import Accuracy, ModelCard, Precision

_TEMPLATES = Path(__file__).with_name("templates")
_NOISE_IMAGES = 32
_SILENCE_DB = 200.0
_PACKAGES = ("gpusq-vit", "torch", "transformers", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Outcome:
    """Everything the stages made.

    Args:
        recipe: What was asked for.
        task: The pictures and labels.
        layers: What was decided on each layer.
        masks: Of the sparse and the quantised network.
        dense: The teacher.
        sparse: The student of stage 1.
        quantized: The student of stage 2.
    """

    recipe: Recipe
    task: Task
    layers: list[Layer]
    masks: Masks
    dense: Result
    sparse: Result
    quantized: Result

    @property
    def stages(self) -> dict[str, Result]:
        """The three networks, by the word the report uses."""
        return {"dense": self.dense, "sparse": self.sparse, "quantized": self.quantized}


def card(outcome: Outcome) -> ModelCard:
    """Write the card of the quantised network."""
    recipe = outcome.recipe
    accuracy = tuple(
        Accuracy(
            data=data,
            images=outcome.quantized.scores[data].images,
            teacher=outcome.dense.scores[data].main,
            sparse=outcome.sparse.scores[data].main,
            quantized=outcome.quantized.scores[data].main,
            metric=outcome.quantized.scores[data].metric,
        )
        for data in outcome.task.held_out
    )
    provenance = {
        "method": "GPUSQ-ViT (arXiv:2305.10727)",
        # The name only: the path on the machine that trained is nobody's business.
        "teacher": Path(recipe.network.checkpoint or "trained from scratch").name,
        "recipe": f"{recipe.name} {recipe.digest()}",
        "licence": recipe.licence,
        **{package: _version(package) for package in _PACKAGES[:3]},
    }
    return ModelCard(
        task=recipe.task,
        labels=outcome.task.labels,
        preprocessing=outcome.task.preprocessing,
        precision=Precision(
            weights=recipe.quantize.weights,
            activations=recipe.quantize.activations,
            sparsity=recipe.prune.pattern,
        ),
        accuracy=accuracy,
        provenance=provenance,
        description=recipe.description,
    )


def write(outcome: Outcome, exported: Exported, run: Run) -> Path:
    """Measure what is left to measure and write both reports into the run's folder.

    A graph that was refused is in them as such.

    Returns:
        The HTML page.
    """
    facts = _facts(outcome, exported, run)
    run.write_json("report", facts)
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        facts, charts=charts, permutation=gained(facts["permuted"]) if facts["permuted"] else ""
    )
    path = run.folder / "report.html"
    write_atomically(path, lambda unfinished: unfinished.write_text(page, encoding="utf-8"))
    return path


def headline(run: Path) -> str:
    """Say in one line what the report in a run's folder found."""
    facts = json.loads((run / "report.json").read_text(encoding="utf-8"))
    row, pattern = facts["accuracy"][0], facts["recipe"]["prune"]["pattern"]
    metric = next(iter(facts["metrics"]))
    names = {
        "dense": "dense",
        "sparse": pattern,
        "quantized": f"{pattern} + {facts['precision']}",
    }
    scores = " -> ".join(
        f"{name} {100 * row[stage][metric]:.1f} %" for stage, name in names.items()
    )
    before, after = (facts["file_bytes"][name] / 1e3 for name in ("dense", "quantized"))
    unit, scale = ("kB", 1.0) if before < 1e3 else ("MB", 1e3)
    digits = 0 if scale == 1.0 else 1
    sizes = f"{before / scale:.{digits}f} -> {after / scale:.{digits}f} {unit}"
    what = "" if metric == "top1" else f"{facts['metrics'][metric]} "
    return f"{what}{scores} on {row['data']}; {sizes}"


def _facts(outcome: Outcome, exported: Exported, run: Run) -> dict[str, Any]:
    total, costs = _cost(outcome)
    model = exported.model
    quantize = outcome.recipe.quantize
    precision = shown(quantize.weights, quantize.activations)
    return {
        "name": outcome.recipe.name,
        "description": outcome.recipe.description,
        "metrics": {name: METRICS[name] for name in _values(outcome)},
        "accuracy": _accuracy(outcome),
        "cost": dataclasses.asdict(total),
        "file_bytes": {
            "dense": (run.folder / "dense.onnx").stat().st_size,
            "quantized": model.stat().st_size,
        },
        "precision": precision,
        "latency": [
            dataclasses.asdict(entry)
            for entry in latency.compare(run.folder / "dense.onnx", model, precision=precision)
        ],
        "machine": latency.machine(),
        "parity": dataclasses.asdict(exported.parity),
        "refusal": exported.parity.refusal,
        "layers": _layers(outcome, {entry.name: entry for entry in costs}),
        "left": [
            dataclasses.asdict(entry)
            for entry in left(outcome.recipe.network.family, outcome.dense.network.body)
        ],
        "permuted": run.read_json(PERMUTED) or {},
        "training": {
            name: {
                "points": result.history.points,
                "scores": _scores(result),
                "seconds": result.history.seconds,
            }
            for name, result in outcome.stages.items()
            if result.history.points
        },
        "layer_losses": outcome.sparse.history.layer_losses,
        "layer_weights": layer_weights(
            outcome.sparse.history.layer_losses, outcome.recipe.distill.layer_weights
        ),
        "comparison": _comparison(outcome) if outcome.recipe.task == "classify" else None,
        "sketches": _sketches(outcome) if outcome.recipe.task != "classify" else None,
        "skipped": _skipped(outcome),
        "dropped": {
            name: reason
            for pictures in [outcome.task.train, *outcome.task.held_out.values()]
            for name, reason in pictures.dropped.items()
        },
        "pictures": len(outcome.task.train) + sum(map(len, outcome.task.held_out.values())),
        "recipe": outcome.recipe.model_dump(mode="json"),
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
    }


def _cost(outcome: Outcome) -> tuple[accounting.Cost, list[accounting.LayerCost]]:
    size = outcome.recipe.input
    picture = torch.zeros(1, size.height, size.width, 3, dtype=torch.uint8)
    patterns = {layer.name: outcome.masks.pattern for layer in outcome.layers if layer.prune}
    formats = layer_formats(outcome.dense.network, outcome.layers, outcome.recipe.quantize)
    bits = {name: (form.weights.bits, form.activations.bits) for name, form in formats.items()}
    blocks = {name: form.block_size for name, form in formats.items() if form.block_size}
    return accounting.cost(
        outcome.dense.network,
        picture,
        patterns,
        bits,
        blocks,
        product_bits(outcome.recipe.quantize),
    )


def _scores(result: Result) -> list[dict[str, float]]:
    """Return what a stage scored while it was trained, and at its end."""
    last = result.history.points[-1]["step"]
    seen = [score for score in result.history.scores if score["step"] < last]
    return [*seen, {"step": last, **{data: one.main for data, one in result.scores.items()}}]


def _values(outcome: Outcome) -> dict[str, float]:
    return next(iter(outcome.quantized.scores.values())).values


def _accuracy(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "data": data,
            **{name: result.scores[data].plain() for name, result in outcome.stages.items()},
        }
        for data in outcome.task.held_out
    ]


def _comparison(outcome: Outcome) -> dict[str, Any]:
    data, images = next(iter(outcome.task.held_out.items()))
    found = findings.compare(
        outcome.dense.network, outcome.quantized.network, images, outcome.task.labels.names
    )
    return {"data": data, **dataclasses.asdict(found)}


def _sketches(outcome: Outcome) -> dict[str, Any]:
    data, pictures = next(iter(outcome.task.held_out.items()))
    found = sketches.compare(
        outcome.dense.network, outcome.quantized.network, pictures, outcome.task.labels.names
    )
    return {"data": data, **dataclasses.asdict(found)}


def _layers(outcome: Outcome, costs: dict[str, accounting.LayerCost]) -> list[dict[str, Any]]:
    kept = outcome.masks.kept()
    formats = layer_formats(outcome.dense.network, outcome.layers, outcome.recipe.quantize)
    quantized = quantized_layers(outcome.quantized.network)
    pictures = torch.cat(outcome.task.calibration(_NOISE_IMAGES))
    noise = findings.layer_noise(
        outcome.sparse.network, outcome.quantized.network, outcome.layers, pictures
    )
    rows = []
    for layer in outcome.layers:
        weight = quantized[layer.name].weight.detach()
        error = (weight - quantized[layer.name].weight_quantizer(weight)).norm() / weight.norm()
        rows.append(
            {
                "name": layer.name.removeprefix("body."),
                "role": layer.role,
                "shape": list(weight.shape),
                "pruned": layer.prune,
                "reason": layer.reason,
                "kept": kept.get(f"{layer.name}.weight", 1.0),
                "macs": costs[layer.name].macs,
                "weights": formats[layer.name].weights.name,
                "activations": formats[layer.name].activations.name,
                "block_size": formats[layer.name].block_size,
                "output_rounded": formats[layer.name].output,
                "format_reason": formats[layer.name].reason,
                "weight_error": error.item(),
                # JSON knows no infinity.
                "output_snr_db": min(noise[layer.name], _SILENCE_DB),
            }
        )
    return rows


def _skipped(outcome: Outcome) -> dict[str, str]:
    found = dict(outcome.task.skipped)
    for result in outcome.stages.values():
        found.update(result.history.skipped)
        for score in result.scores.values():
            found.update(score.skipped)
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
