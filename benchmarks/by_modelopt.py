"""A dense network made 2:4 and INT8 by NVIDIA's ModelOpt, trained as this project trains.

ModelOpt is imported where it is used: the project has no need of it.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress import stages
from compress.criteria.classify import hard_loss
from compress.data.batch import Batch
from compress.distill import Losses
from compress.errors import CompressError, RecipeError
from compress.evaluate import Score, torch_asked
from compress.networks.network import Network
from compress.recipe import Recipe, Schedule
from compress.run import Run
from compress.tasks.task import Task
from compress.train import Stage, total_steps, train
from compress.work import Work


@dataclass(frozen=True)
class Contender:
    """How ModelOpt is used; the defaults are its own.

    Args:
        masks: Mode of ``mts.sparsify``.
        head: Whether the head may be pruned and is trained; if not it stays dense, and frozen where
            the recipe freezes it.
        reduction: Of ``LogitsDistillationLoss``; "mean" divides by the number of classes as well.
        layer_norm: Whether the inputs of LayerNorm are rounded.
        quantize_first: Quantise right after pruning and do all steps then, instead of the steps of
            stage 1 before and those of stage 2 after.
        times: How often the recipe's steps are done.
    """

    masks: Literal["sparse_magnitude", "sparsegpt"] = "sparse_magnitude"
    head: bool = True
    reduction: Literal["mean", "batchmean"] = "mean"
    layer_norm: bool = True
    quantize_first: bool = False
    times: int = 1


CONTENDERS = {
    "ModelOpt": Contender(),
    "quantised before any step": Contender(quantize_first=True),
    "masks by SparseGPT": Contender(masks="sparsegpt"),
    "head as in the recipe": Contender(head=False),
    "loss not divided by classes": Contender(reduction="batchmean"),
    "LayerNorm reads float": Contender(layer_norm=False),
    "the last four at once": Contender(
        "sparsegpt", head=False, reduction="batchmean", layer_norm=False
    ),
    "and twice the steps": Contender(
        "sparsegpt", head=False, reduction="batchmean", layer_norm=False, times=2
    ),
}


def require_modelopt() -> None:
    """Check that ModelOpt is installed, without the seconds that importing it takes.

    Raises:
        CompressError: It is not, or what it needs is not.
    """
    # ModelOpt 0.47 imports requests without declaring it.
    if missing := [name for name in ("modelopt", "requests") if find_spec(name) is None]:
        raise CompressError(
            f"this comparison needs NVIDIA's ModelOpt, and {' and '.join(missing)} cannot be "
            "imported. Install it with: pip install 'gpusq-vit[compress,modelopt]'"
        )


def schedules(recipe: Recipe) -> tuple[Schedule, Schedule]:
    """Return the schedules of stages 1 and 2.

    Raises:
        RecipeError: The recipe makes what ModelOpt does not, or lacks a schedule.
    """
    prune, quantize = recipe.prune, recipe.quantize
    made = f"{prune.pattern} {quantize.weights}/{quantize.activations}"
    if made != "2:4 int8/int8":
        raise RecipeError(f"expected a recipe for 2:4 int8/int8, which ModelOpt makes, got {made}")
    if prune.schedule is None or quantize.schedule is None:
        raise RecipeError("equal steps need both prune.schedule and quantize.schedule, one is null")
    if prune.schedule.weight_decay or quantize.schedule.weight_decay:
        # What ModelOpt's masked layers call their weight is no parameter, so the optimiser would
        # decay this project's alone.
        raise RecipeError("expected weight_decay: 0 in both schedules, which both sides can follow")
    return prune.schedule, quantize.schedule


def steps(recipe: Recipe, task: Task) -> tuple[int, int]:
    """Return the optimiser steps of stages 1 and 2."""
    first, second = schedules(recipe)
    return (
        total_steps(first, task.steps_per_epoch(first)),
        total_steps(second, task.steps_per_epoch(second)),
    )


class ByModelOpt:
    """One network on its way through ModelOpt.

    Args:
        work: The recipe and its pictures.
        run: Where an unfinished part is kept.
        dense: The teacher of both parts; copied.
        settings: How ModelOpt is used.
    """

    def __init__(self, work: Work, run: Run, dense: Network, settings: Contender) -> None:
        import modelopt.torch.distill as mtd  # noqa: PLC0415
        import modelopt.torch.quantization as mtq  # noqa: PLC0415
        import modelopt.torch.sparsity as mts  # noqa: PLC0415

        self.mtd, self.mtq, self.mts = mtd, mtq, mts
        self.work, self.run, self.settings = work, run, settings
        self.steps, self.training_s = 0, 0.0
        self.teacher = copy.deepcopy(dense).to(work.device)
        # Its loss takes what the networks return, which autocast would round.
        self.teacher.register_forward_hook(lambda _network, _images, logits: logits.float())
        self.student: Any = copy.deepcopy(self.teacher).requires_grad_(True)

    def networks(self) -> tuple[dict[str, Score], dict[str, Score]]:
        """Make the sparse and the sparse INT8 network, which stays as ``student``.

        Returns:
            Scores of both; none of the first where it is quantised before any step.
        """
        first, second = schedules(self.work.recipe)
        before, after = (
            self.settings.times * count for count in steps(self.work.recipe, self.work.task)
        )
        self._prune()
        if self.settings.quantize_first:
            self._quantize()
            self._distil("INT8", first, before + after)
            return {}, self._scores("INT8")
        self._distil("sparse", first, before)
        sparse = self._scores("sparse")
        self._quantize()
        self._distil("INT8", second, after)
        return sparse, self._scores("INT8")

    def pruned(self) -> dict[str, Tensor]:
        """Return the pruned layers' weights as they are multiplied: masked and rounded.

        Returns:
            By layer name: [out, ..., in], the axis that is cut into groups last.
        """
        return {
            # Of a convolution, ModelOpt groups the input channels, apart for each place.
            name: layer.weight_quantizer(layer.weight).detach().movedim(1, -1)
            for name, layer in self.student.named_modules()
            if _is_masked(layer)
        }

    def _prune(self) -> None:
        # The first is ModelOpt's own rule for Linears, the second its exception.
        rules: dict[str, Any] = {"*": {}, "*lm_head*": None}
        if not self.settings.head:
            layers = stages.layers_of(self.work, self.student)
            heads = [layer.name for layer in layers if layer.role == "head"]
            rules.update(dict.fromkeys(heads))
            for name in heads if self.work.recipe.distill.freeze_head else []:
                self.student.get_submodule(name).requires_grad_(False)
        config: dict[str, Any] = {}
        if self.settings.masks == "sparsegpt":
            views = self.work.task.training_views(self.work.recipe.prune.calibration_images)
            config["forward_loop"] = self._shows(views)
        with _quiet():
            mode = [(self.settings.masks, {"nn.Linear": rules})]
            self.student = self.mts.sparsify(self.student, mode, config)

    def _quantize(self) -> None:
        config = copy.deepcopy(self.mtq.INT8_DEFAULT_CFG)
        if not self.settings.layer_norm:
            inputs = {"parent_class": "nn.LayerNorm", "quantizer_name": "*input_quantizer"}
            config["quant_cfg"].append({**inputs, "enable": False})
        pictures = self.work.task.calibration(self.work.recipe.quantize.calibration_images)
        with _quiet():
            self.student = self.mtq.quantize(self.student, config, self._shows(pictures))

    def _distil(self, part: str, schedule: Schedule, count: int) -> None:
        work = self.work
        epochs = count / work.task.steps_per_epoch(schedule)
        schedule = schedule.model_copy(update={"epochs": epochs})
        config = {
            "teacher_model": self.teacher,
            "criterion": self.mtd.LogitsDistillationLoss(reduction=self.settings.reduction),
        }
        if work.recipe.data.labelled:
            config["loss_balancer"] = self.mtd.StaticLossBalancer()
        student = self.mtd.convert(self.student, mode=[("kd_loss", config)])

        def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
            images, labels = work.task.inputs(batch, step, work.device)
            assert labels is None or isinstance(labels, Tensor)  # noqa: S101 - it classifies
            logits = forward(images)
            term = student.compute_kd_loss(None if labels is None else hard_loss(logits, labels))
            return Losses(term, {"distillation": term.detach()}, {})

        def score() -> dict[str, float]:
            with student.only_student_forward():
                scores = work.task.evaluate(torch_asked(student), f"ModelOpt {part}")
            return {data: found.main for data, found in scores.items()}

        stage = Stage(
            name=f"ModelOpt {part}",
            network=student,
            loss=loss,
            batches=lambda first: work.task.batches(schedule, first),
            steps_per_epoch=work.task.steps_per_epoch(schedule),
            score=score,
            seed=work.recipe.seed,
            dropout=False,
        )
        history = train(stage, schedule, self.run, work.recipe.checkpoint_every_s)
        self.steps += count
        self.training_s += history.seconds
        self.student = self.mtd.export(student)

    def _scores(self, part: str) -> dict[str, Score]:
        return self.work.task.evaluate(torch_asked(self.student.eval()), f"ModelOpt {part}")

    def _shows(self, batches: list[Tensor]) -> Callable[[nn.Module], None]:
        def show(network: nn.Module) -> None:
            with torch.no_grad():
                for images in batches:
                    network(images.to(self.work.device))

        return show


def _is_masked(layer: nn.Module) -> bool:
    mask = getattr(layer, "_weight_mask", None)
    return mask is not None and not bool(mask.all())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # ModelOpt prints a line for every layer; standard output is for the table.
    with contextlib.redirect_stdout(sys.stderr):
        yield
