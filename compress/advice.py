"""What the person who wrote a recipe can change when its network cannot be served."""

from __future__ import annotations

from compress.recipe import Recipe


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
    rounded = f", or round less ({', or '.join(finer)})" if finer else ""
    return (
        "Values that are rounded otherwise there decide too much: train longer "
        f"({' and '.join(longer)}){rounded}, in another 'run' folder or with --restart."
    )
