"""What the person who wrote a recipe can change when its network cannot be served."""

from __future__ import annotations

from typing import Final

from compress.recipe import Recipe

_BY_REGIONS: Final = ("mask_rcnn", "cascade_mask_rcnn")


def after_refusal(recipe: Recipe) -> str:
    """Say what makes ONNX Runtime agree more with a network that it disagrees with.

    Two right implementations round a few values to neighbouring steps. That changes little in a
    network that is sure of its answers, and less the finer the steps are.
    """
    quantize = recipe.quantize
    trained = {"teacher": recipe.teacher, "quantize.schedule": quantize.schedule}
    longer = [
        f"{name}.epochs above {schedule.epochs:g}"
        for name, schedule in trained.items()
        if schedule is not None
    ]
    if quantize.schedule is None:
        longer.append("a quantize.schedule")
    finer = []
    if quantize.placement != "gemm":
        finer.append("quantize.placement: gemm")
    if quantize.activations == "int4":
        finer.append("quantize.activations: int8")
    if quantize.activations != "float32":
        finer.append("quantize.weights: int4 with quantize.activations: float32")
    if recipe.network.family in _BY_REGIONS and not _votes(recipe):
        # Otherwise rounding decides which of several nearly equal boxes stays.
        finer.append("network.architecture.box_voting: true")
    rounded = f", or round less ({', or '.join(finer)})" if finer else ""
    return (
        "Values that are rounded otherwise there decide too much: train longer "
        f"({' and '.join(longer)}){rounded}, in another 'run' folder or with --restart."
    )


def _votes(recipe: Recipe) -> bool:
    return bool(recipe.network.architecture.get("box_voting"))
