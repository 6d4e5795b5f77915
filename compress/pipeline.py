"""The whole algorithm on one screen."""

from __future__ import annotations

from pathlib import Path

import torch

from compress import export, report, stages
from compress.plan import repository
from compress.recipe import Recipe
from compress.run import Run
from compress.tasks.classify import Classification


def compress(recipe: Recipe, *, restart: bool = False) -> Path:
    """Compress one network and put it into the model repository.

    Args:
        recipe: What to do.
        restart: Begin anew even where an earlier run left results.

    Returns:
        The version folder in the model repository.

    Raises:
        CompressError: Whatever the person who wrote the recipe can put right.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(recipe.run, recipe.digest(), restart=restart)
    work = stages.Work(recipe, run, Classification(recipe), device)

    dense = stages.dense_teacher(work)
    layers = stages.layers_of(work, dense.network)
    sparse, masks = stages.sparse_student(work, dense, layers)
    quantized = stages.quantized_student(work, dense, sparse, layers, masks)

    outcome = report.Outcome(recipe, work.task, layers, masks, dense, sparse, quantized)
    bundle = run.folder / "bundle"
    parity = export.write_bundle(
        quantized.network.cpu(),
        report.card(outcome),
        work.task.calibration(export.PARITY_IMAGES),
        list(masks.masks),
        bundle,
    )
    export.write_graph(dense.network.cpu(), work.task.preprocessing, run.folder / "dense.onnx")
    report.write(outcome, parity, run)
    return repository.publish(
        bundle, recipe.publish.repository, recipe.name, max_batch_size=recipe.publish.max_batch_size
    )
