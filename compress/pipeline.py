"""The whole algorithm on one screen."""

from __future__ import annotations

from pathlib import Path

import torch

from compress import advice, export, parallel, report, stages
from compress.errors import ExportError
from compress.parallel import Processes
from compress.plan import repository
from compress.recipe import Recipe
from compress.run import Run
from compress.tasks import TASKS
from compress.tracking import Tracker
from compress.work import Work


def compress(recipe: Recipe, *, restart: bool = False) -> Path | None:
    """Compress one network and put it into the model repository.

    Args:
        recipe: What to do.
        restart: Begin anew even where an earlier run left results.

    Returns:
        The version folder in the model repository; None in processes other than the main one,
        which only take part in training.

    Raises:
        CompressError: Whatever the person who wrote the recipe can put right.
    """
    work = prepare(recipe, parallel.launched(), restart=restart)
    outcome = networks(work)
    return deliver(outcome, work.run) if work.processes.main else None


def deliver(outcome: report.Outcome, run: Run) -> Path:
    """Export the compressed network, write the report and put the model into the repository.

    Returns:
        The version folder in the model repository.

    Raises:
        ExportError: ONNX Runtime disagrees with the network; the report has by how much.
        CompressError: The graph is not sparse, or the repository does not take it.
    """
    recipe, task, bundle = outcome.recipe, outcome.task, run.folder / "bundle"
    exported = export.write_bundle(
        outcome.quantized.network.cpu(),
        report.card(outcome),
        task.calibration(export.PARITY_IMAGES),
        list(outcome.masks.masks),
        bundle,
    )
    export.write_graph(outcome.dense.network.cpu(), task.preprocessing, run.folder / "dense.onnx")
    page = report.write(outcome, exported, run)
    if refusal := exported.parity.refusal:
        raise ExportError(
            "expected the exported graph to compute in ONNX Runtime what the trained network "
            f"computes: {refusal}. {advice.after_refusal(recipe)} Report: {page}"
        )
    return repository.publish(
        bundle, recipe.publish.repository, recipe.name, max_batch_size=recipe.publish.max_batch_size
    )


def prepare(recipe: Recipe, processes: Processes, *, restart: bool = False) -> Work:
    """Open the run's folder and the pictures.

    Raises:
        CheckpointError: The folder belongs to another recipe.
        DataError: A folder of pictures is missing, empty, or names no class.
        RecipeError: A tracker is not installed.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    with processes.main_first():
        run = Run(recipe.run, recipe.digest(), restart=restart and processes.main)
    task = TASKS[recipe.task](recipe, processes)
    config = {"recipe": recipe.name, "digest": recipe.digest(), "seed": recipe.seed}
    trackers = recipe.trackers if processes.main else ()
    tracker = Tracker(trackers, run.folder, recipe.name, config)
    return Work(recipe, run, task, processes, tracker)


def networks(work: Work) -> report.Outcome:
    """Make the three networks, or take those that the run's folder holds."""
    try:
        dense = stages.dense_teacher(work)
        layers = stages.layers_of(work, dense.network)
        sparse, masks = stages.sparse_student(work, dense, layers)
        quantized = stages.quantized_student(work, dense, sparse, layers, masks)
    finally:
        # MLflow begins no run while another one is open, and an ablation goes on.
        if work.tracker:
            work.tracker.close()
    return report.Outcome(work.recipe, work.task, layers, masks, dense, sparse, quantized)
