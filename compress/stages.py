"""The stages of one compression, each from the result of the one before.

A finished stage lies in the run's folder and is not done again; an unfinished one goes on from
its last checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.admm import optimal_rows
from compress.attention import prefer_products
from compress.calibrate import calibrate
from compress.criteria.criterion import as_float
from compress.data.batch import Batch
from compress.distill import Losses, MixedDistillation, Weights, layer_weights
from compress.errors import RecipeError
from compress.evaluate import Score, torch_asked
from compress.mask_schedule import MovingMasks
from compress.networks import FAMILIES
from compress.networks.fold import fold_batch_norms
from compress.networks.network import Family, Layer, Network, input_size
from compress.networks.pretrained import fill_backbone
from compress.parallel import freeze_idle
from compress.permute import PERMUTED, gained, pairs, permute_channels
from compress.placement import place_quantizers
from compress.progress import Progress, progress
from compress.prune import PATTERNS, Masks, magnitude_masks
from compress.quantize import switch_on
from compress.recipe import Recipe, Schedule
from compress.reconstruct import Cut, corrected_rows, prune_layerwise, strongest_rows
from compress.train import History, Stage, checkpoint_name, total_steps, train
from compress.unload import unloaded
from compress.work import Result, Work
from contract.cpu import lacks_bfloat16

_LOG = logging.getLogger(__name__)
# Criteria that look at calibration pictures.
_CUTS: dict[str, Cut] = {
    "wanda": strongest_rows,
    "reconstruct": corrected_rows,
    "admm": optimal_rows,
}


def dense_teacher(work: Work) -> Result:
    """Load the dense network, or train it from scratch where the recipe gives an architecture.

    Raises:
        CheckpointError: The checkpoint cannot be loaded or has another number of classes.
        RecipeError: The network takes pictures of another size.
    """
    network = _dense_network(work)
    if work.recipe.teacher is None:
        return _finish(work, "teacher", network, History)

    criterion = _family(work).criterion

    def fit(schedule: Schedule) -> History:
        def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
            images, labels = work.task.inputs(batch, step, work.device)
            assert labels is not None  # noqa: S101 - the recipe was checked for it
            outputs = as_float(forward(images, network.hint(None, labels)))
            term = criterion.hard(outputs, labels)
            return Losses(term, {"hard": term.detach()}, {})

        return _train(work, "teacher", network, loss, schedule)

    schedule = work.recipe.teacher
    return _finish(work, "teacher", network, lambda: fit(schedule))


def layers_of(work: Work, network: Network) -> list[Layer]:
    """Decide on every layer of the network: sparse, or dense and why."""
    found = _family(work).layers(network.body)
    pattern = PATTERNS[work.recipe.prune.pattern]
    decided = []
    for layer in found:
        name, reads = f"body.{layer.name}", f"body.{layer.reads}"
        reason = layer.reason or pattern.unfit(network.get_parameter(f"{name}.weight"))
        decided.append(Layer(name, layer.role, reads, prune=not reason, reason=reason))
    return decided


def sparse_student(work: Work, dense: Result, layers: list[Layer]) -> tuple[Result, Masks]:
    """Stage 1: prune a copy of the dense network and distil the dense one into it."""
    student = _copy_to_train(work, dense.network, layers)
    masks, moving = _masks(work, student, layers)
    prune = work.recipe.prune
    loss = _distillation(work, dense.network, student, {})

    def fit() -> History:
        if moving:
            moving.start(student)
        masks.apply(student)
        if prune.schedule is None:
            return History(skipped=dict(work.task.skipped))
        return _train(work, "sparse", student, loss, prune.schedule, moving or masks)

    result = _finish(work, "sparse", student, fit, masks)
    return result, masks


def quantized_student(
    work: Work, dense: Result, sparse: Result, layers: list[Layer], masks: Masks
) -> Result:
    """Stage 2: quantise a copy of the sparse network and distil its teacher into it."""
    quantize = work.recipe.quantize
    student = _copy_to_train(work, sparse.network, layers)
    place_quantizers(student, layers, quantize)
    teacher, idle, kept_as = sparse.network, dense.network, "teacher"
    if quantize.teacher == "dense":
        teacher, idle, kept_as = dense.network, sparse.network, "sparse"
    loss = _distillation(work, teacher, student, sparse.history.layer_losses)

    def fit() -> History:
        if not work.run.has(checkpoint_name("quantized")):
            # Without a name, the pictures leave memory before training begins.
            calibrate(
                student,
                _calibration(work, quantize.calibration_images),
                quantize.observer,
                quantize.percentile,
            )
            work.processes.same_as_main(student)
        switch_on(student)
        if quantize.schedule is None:
            return History(skipped=dict(work.task.skipped))
        return _train(work, "quantized", student, loss, quantize.schedule, masks)

    # Teacher and student alone are in memory.
    with unloaded(idle, work.run, kept_as):
        result = _finish(work, "quantized", student, fit, masks)
    switch_on(student)
    return result


def feature_layers(work: Work, network: Network) -> list[str]:
    """Name the late blocks whose outputs distillation compares.

    Raises:
        RecipeError: The network has none, and the recipe wants them compared.
    """
    blocks = _family(work).blocks(network.body)
    if not blocks and work.recipe.distill.feature:
        raise RecipeError(
            "this network has no repeated blocks with an output to compare. Set distill.feature: 0"
        )
    return [f"body.{name}" for name in blocks[-work.recipe.distill.feature_layers :]]


def _family(work: Work) -> Family:
    return FAMILIES[work.recipe.network.family]


def _copy_to_train(work: Work, network: Network, layers: list[Layer]) -> Network:
    student = copy.deepcopy(network)
    # A convolution is pruned and rounded as it is served: with the norm behind it computed in.
    fold_batch_norms(student)
    student.requires_grad_(True)
    if work.recipe.distill.freeze_head:
        for layer in layers:
            if layer.role == "head":
                student.get_submodule(layer.name).requires_grad_(False)
    return student


def _dense_network(work: Work) -> Network:
    settings = work.recipe.network
    family = _family(work)
    if settings.checkpoint is None:
        classes = len(work.task.labels)
        if settings.architecture.get("num_labels", classes) != classes:
            raise RecipeError(
                f"network.architecture.num_labels: expected the {classes} of data.labels, got "
                f"{settings.architecture['num_labels']}. Leave it out."
            )
        body = family.build({**settings.architecture, "num_labels": classes})
        if settings.backbone is not None:
            fill_backbone(body, settings.backbone)
    else:
        body = family.load(settings.checkpoint, len(work.task.labels))
    _check_input(work.recipe, body)
    prefer_products(body)
    return family.wrap(body, settings.mean, settings.std).to(work.device).eval()


def _check_input(recipe: Recipe, body: Any) -> None:
    size = (recipe.input.height, recipe.input.width)
    built_for = input_size(body)
    if built_for and size != built_for:
        raise RecipeError(
            f"the recipe's input is {size[0]} x {size[1]}, the network was built for "
            f"{built_for[0]} x {built_for[1]}. Set input to that, or image_size of an architecture."
        )


def _masks(work: Work, student: Network, layers: list[Layer]) -> tuple[Masks, MovingMasks | None]:
    """Choose the masks, or take those that an earlier run chose; say how they move, if they do."""
    prune = work.recipe.prune
    kept = _earlier_masks(work)
    masks = Masks(kept["masks"], PATTERNS[prune.pattern]) if kept else None
    if masks is None:
        masks = _chosen_masks(work, student, [layer for layer in layers if layer.prune], layers)
        work.processes.take_from_main({**student.state_dict(), **masks.masks})
    if prune.masks == "fixed" or prune.schedule is None:
        return masks, None
    steps = total_steps(prune.schedule, work.task.steps_per_epoch(prune.schedule))
    settled = max(1, round(prune.settle * steps))
    moving = MovingMasks(masks, settled, prune.every, gradual=prune.masks == "gradual")
    if kept:
        moving.hidden = kept["hidden"]
    return masks, moving


def _earlier_masks(work: Work) -> dict[str, dict[str, Tensor]] | None:
    for name in ("sparse", checkpoint_name("sparse")):
        if (state := _load(work, name)) is not None:
            return {
                part: {key: value.to(work.device) for key, value in state.get(part, {}).items()}
                for part in ("masks", "hidden")
            }
    return None


def _chosen_masks(work: Work, student: Network, pruned: list[Layer], layers: list[Layer]) -> Masks:
    prune = work.recipe.prune
    pattern = PATTERNS[prune.pattern]
    if prune.permute:
        (picture, *_) = _calibration(work, 2)
        with _bar(work, "permute", len(pairs(student, layers))) as bar:
            gains = permute_channels(student, layers, picture, bar.update)
        if work.processes.main:
            work.run.write_json(PERMUTED, gains)
            _LOG.info("permute: the largest two of four keep %s", gained(gains))
    if prune.criterion == "magnitude":
        return magnitude_masks(student, [layer.name for layer in pruned], pattern)
    views = work.task.training_views(prune.calibration_images)
    pictures = [images.to(work.device) for images in views]
    cut = _CUTS[prune.criterion]
    lower = prune.schedule is not None and prune.schedule.autocast == "bfloat16"
    with (
        torch.autocast(work.device.type, torch.bfloat16, enabled=lower),
        _bar(work, prune.criterion, len(pruned)) as bar,
    ):
        return prune_layerwise(student, pruned, pictures, cut, pattern, bar.update)


def _bar(work: Work, what: str, total: int) -> Progress:
    return progress(what, total, "layer", quiet=not work.processes.main)


def _distillation(
    work: Work, teacher: Network, student: Network, stage_one_losses: dict[str, float]
) -> Callable[[nn.Module, Batch, int], Losses]:
    settings = work.recipe.distill
    compared = feature_layers(work, teacher)
    per_layer = dict.fromkeys(compared, 1.0)
    if stage_one_losses:
        per_layer = layer_weights(stage_one_losses, settings.layer_weights)
    weights = Weights(
        hard=settings.hard,
        soft=settings.soft,
        feature=settings.feature,
        temperature=settings.temperature,
        agree_only=settings.agree_only,
        layers=per_layer,
    )
    criterion = _family(work).criterion
    compare = MixedDistillation(teacher, student, weights, criterion, work.processes)

    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        images, labels = work.task.inputs(batch, step, work.device)
        return compare(images, labels if settings.hard_label == "given" else None, forward)

    return loss


def _calibration(work: Work, count: int) -> list[Tensor]:
    return [images.to(work.device) for images in work.task.calibration(count)]


def _train(
    work: Work,
    name: str,
    network: Network,
    loss: Callable[[nn.Module, Batch, int], Losses],
    schedule: Schedule,
    masks: Masks | MovingMasks | None = None,
) -> History:
    earlier = _steps_before(work, name)

    def log(values: dict[str, float], step: int) -> None:
        if work.tracker:
            work.tracker.log(name, values, earlier + step)

    def score() -> dict[str, float]:
        scores = work.task.evaluate(torch_asked(network), name)
        return {data: found.main for data, found in scores.items()}

    if schedule.autocast == "bfloat16" and work.device.type == "cpu" and lacks_bfloat16():
        _LOG.warning(
            "%s: this processor has no bfloat16 products, which makes autocast: bfloat16 many "
            "times slower than float32. Set the schedule's autocast to float32.",
            name,
        )
    size = work.recipe.input
    freeze_idle(network, torch.zeros(1, size.height, size.width, 3, device=work.device))
    hooks: dict[str, Any] = {}
    if isinstance(masks, MovingMasks):
        hooks = {"after_step": masks.after_step, "keep": masks.state}
    elif masks:
        hooks = {
            "after_step": lambda network, _step: masks.apply(network),
            "keep": lambda: {"masks": masks.masks},
        }
    stage = Stage(
        name=name,
        network=network,
        loss=loss,
        batches=lambda first: work.task.batches(schedule, first),
        steps_per_epoch=work.task.steps_per_epoch(schedule),
        score=score,
        log=log,
        processes=work.processes,
        seed=work.recipe.seed,
        # The teacher of a stage drops nothing, nor does the network that is served.
        dropout=name == "teacher",
        skipped=work.task.skipped,
        **hooks,
    )
    return train(stage, schedule, work.run, work.recipe.checkpoint_every_s)


def _steps_before(work: Work, name: str) -> int:
    """Return how many steps the stages before this one have, whether or not they are done."""
    recipe = work.recipe
    schedules = {
        "teacher": recipe.teacher,
        "sparse": recipe.prune.schedule,
        "quantized": recipe.quantize.schedule,
    }
    earlier = itertools.takewhile(lambda stage: stage != name, schedules)
    found = [schedule for stage in earlier if (schedule := schedules[stage])]
    return sum(total_steps(one, work.task.steps_per_epoch(one)) for one in found)


def _finish(
    work: Work,
    name: str,
    network: Network,
    fit: Callable[[], History],
    masks: Masks | None = None,
) -> Result:
    """Do a stage unless its result is there; score it, keep it, and check its masks."""
    state = _load(work, name)
    if state is None:
        history = fit()
        if masks:
            masks.verify(network, f"after stage {name}")
        scores = work.task.evaluate(torch_asked(network.eval()), name)
        state = {
            "network": network.state_dict(),
            "history": dataclasses.asdict(history),
            "scores": {data: dataclasses.asdict(score) for data, score in scores.items()},
            "masks": masks.masks if masks else {},
        }
        if work.processes.main:
            work.run.save(name, state)
            work.run.drop(checkpoint_name(name))
    return _restored(network, state, masks, name)


def _load(work: Work, name: str) -> dict[str, Any] | None:
    """Load what is kept as ``name``, the same in every process, whichever is ahead."""
    work.processes.wait()
    state = work.run.load(name)
    work.processes.wait()
    return state


def _restored(network: Network, state: dict[str, Any], masks: Masks | None, name: str) -> Result:
    network.load_state_dict(state["network"])
    if masks:
        masks.verify(network, f"in the result of stage {name}")
    scores = {data: Score(**score) for data, score in state["scores"].items()}
    return Result(network.eval(), scores, History(**state["history"]))
