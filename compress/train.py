"""One run of the optimiser: steps, schedule, checkpoints. Knows no task and no loss.

Every step depends on the seed, the step number and the state alone, so on a CPU a run that is
killed and resumed ends with the same weights, bit by bit, as one that was not. GPU kernels add in
no fixed order; there the two are equal but for rounding.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.data.batch import Batch
from compress.distill import Losses
from compress.errors import TrainingError
from compress.parallel import Processes
from compress.progress import progress

if TYPE_CHECKING:
    from compress.recipe import Schedule
    from compress.run import Run

_LOG = logging.getLogger(__name__)
_RECORD_EVERY = 10
_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class History:
    """What training recorded, in plain values.

    Args:
        points: One entry every few steps: step, learning rate and the mean of each term since
            the entry before.
        layer_losses: Mean feature loss of each layer over the last epoch.
        scores: The main metric on each held-out set before and while training went on, with the
            step.
        skipped: Pictures that could not be decoded, with the reason.
        seconds: Spent in steps, resumed runs included.
    """

    points: list[dict[str, float]] = field(default_factory=list)
    layer_losses: dict[str, float] = field(default_factory=dict)
    scores: list[dict[str, float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One training stage: who is trained, on what, and where it is kept.

    Args:
        name: Of the checkpoint and of the progress bar.
        network: To train; its mode is set to training.
        loss: Of one batch; its first argument is what to call in the network's place.
        batches: Endless steps from a given one on, each the batches whose gradients it adds up.
        steps_per_epoch: Steps an epoch.
        after_step: Called with the network and the step after every optimiser step: masks.
        keep: Returns more state that a resumed run needs, such as the masks.
        score: Scores the network as it is, by name of the data; called before the first step and
            every ``schedule.evaluate_every`` epochs.
        log: Called with each point of the record and its step.
        processes: That train together.
        seed: Of what the network draws while it trains.
        skipped: Pictures that could not be decoded before the first step, with the reason.
        dropout: Whether it drops anything, as its modules do in training; batch norms are in
            training in any case.
    """

    name: str
    network: nn.Module
    loss: Callable[[nn.Module, Batch, int], Losses]
    batches: Callable[[int], Iterator[list[Batch]]]
    steps_per_epoch: int
    after_step: Callable[[nn.Module, int], None] = lambda _network, _step: None
    keep: Callable[[], dict[str, Any]] = dict
    score: Callable[[], dict[str, float]] = dict
    log: Callable[[dict[str, float], int], None] = lambda _values, _step: None
    processes: Processes = field(default_factory=Processes)
    seed: int = 0
    dropout: bool = True
    skipped: dict[str, str] = field(default_factory=dict)


def train(stage: Stage, schedule: Schedule, run: Run, checkpoint_every_s: float = 60.0) -> History:
    """Train one stage from its last checkpoint, or from the start, to its end.

    Returns:
        The record of the whole stage.

    Raises:
        TrainingError: The loss is no longer a number.
    """
    steps = total_steps(schedule, stage.steps_per_epoch)
    optimizer = _Optimizer(stage, schedule)
    meter = _Meter(steps, stage)
    first = _resume(stage, optimizer, meter, run)
    forward = stage.processes.joined(stage.network)
    _set_training(stage)
    if first == 0:
        _score(stage, meter.history, 0)
    since = time.monotonic()
    quiet = not stage.processes.main
    if first and not quiet:
        _LOG.info("going on from step %d of stage %s", first, stage.name)
    with progress(stage.name, steps, "step", first=first, quiet=quiet) as bar:
        for step, batches in zip(range(first, steps), stage.batches(first), strict=False):
            rate = learning_rate(step, steps, schedule)
            meter.add(step, rate, optimizer.step(forward, batches, step, rate), batches)
            if (step + 1) % _RECORD_EVERY == 0:
                bar.set_postfix(_shown(meter.history.points[-1]), refresh=False)
            bar.update()
            if _due(stage, schedule, step + 1):
                _score(stage, meter.history, step + 1)
            if time.monotonic() - since > checkpoint_every_s and stage.processes.main:
                meter.history.seconds += time.monotonic() - since
                since = time.monotonic()
                _save(stage, optimizer, meter, run, step + 1)
    meter.history.seconds += time.monotonic() - since
    # As large as the network, and of no use to the next stage.
    stage.network.zero_grad(set_to_none=True)
    stage.network.eval()
    return meter.finish()


def total_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """Return the number of optimiser steps of a schedule; at least one."""
    return max(1, round(schedule.epochs * steps_per_epoch))


def learning_rate(step: int, steps: int, schedule: Schedule) -> float:
    """Return the rate of one step: linear warm-up, then half a cosine down to zero."""
    rising = schedule.warmup * steps
    if step < rising:
        return schedule.learning_rate * (step + 1) / (rising + 1)
    progress = (step - rising) / max(1.0, steps - rising)
    return schedule.learning_rate * (1 + math.cos(math.pi * progress)) / 2


class _Optimizer:
    """AdamW over the gradients of one step's batches, scaled where float16 needs it."""

    def __init__(self, stage: Stage, schedule: Schedule) -> None:
        self.stage, self.schedule = stage, schedule
        network = stage.network
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        weights = {
            layer.weight
            for layer in network.modules()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)  # noqa: SLF001 - torch's base class
        }
        # Biases, norms, scales, tokens, position embeddings and relative position tables are not
        # decayed, as in the DeiT and Swin training recipes.
        groups = [
            {"params": [p for p in trained if p in weights], "weight_decay": schedule.weight_decay},
            {"params": [p for p in trained if p not in weights], "weight_decay": 0.0},
        ]
        # The fused kernel is the faster one, and skips a step by itself, without asking the device,
        # where scaled gradients overflowed.
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, fused=True
        )
        self.device = next(network.parameters()).device.type
        scaled = schedule.autocast == "float16"
        self.scaler = torch.amp.GradScaler(self.device, enabled=scaled)

    def step(self, forward: nn.Module, batches: list[Batch], step: int, rate: float) -> Losses:
        """Change the weights once; return the mean losses over batches and processes."""
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.zero_grad(set_to_none=True)
        found = [
            self._backward(forward, batch, step, (index, len(batches)))
            for index, batch in enumerate(batches)
        ]
        self.scaler.unscale_(self.adamw)
        nn.utils.clip_grad_norm_(self.stage.network.parameters(), self.schedule.clip_norm)
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.stage.after_step(self.stage.network, step)
        return _mean(found, self.stage.processes)

    def _backward(
        self, forward: nn.Module, batch: Batch, step: int, place: tuple[int, int]
    ) -> Losses:
        index, count = place
        processes = self.stage.processes
        # Dropout, where a network has any, draws from here: in every run and stage anew.
        piece = (step * count + index) * processes.count + processes.rank
        # Of 32 bits, all that the CPU's generator takes in.
        torch.manual_seed(zlib.crc32(f"{self.stage.seed} {self.stage.name} {piece}".encode()))
        lower = _LOWER.get(self.schedule.autocast)
        with processes.apart(forward, yet=index + 1 < count):
            with torch.autocast(self.device, lower, enabled=lower is not None):
                losses = self.stage.loss(forward, batch, step)
            self.scaler.scale(losses.total / count).backward()  # type: ignore[no-untyped-call]
        return losses

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` takes."""
        return {"optimizer": self.adamw.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state` was taken."""
        self.adamw.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _mean(found: list[Losses], processes: Processes) -> Losses:
    """Average the losses of several batches, here and in the other processes."""
    if len(found) == processes.count == 1:
        return found[0]
    terms, layers = list(found[0].terms), list(found[0].layers)
    rows = [
        torch.stack([losses.total.detach(), *losses.terms.values(), *losses.layers.values()])
        for losses in found
    ]
    total, *rest = processes.mean(torch.stack(rows).mean(dim=0)).unbind()
    return Losses(
        total,
        dict(zip(terms, rest[: len(terms)], strict=True)),
        dict(zip(layers, rest[len(terms) :], strict=True)),
    )


def _set_training(stage: Stage) -> None:
    stage.network.train()
    if not stage.dropout:
        for module in stage.network.modules():
            # Where networks drop attention, branches or layers, they ask their modules' mode.
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - torch's base class


def _due(stage: Stage, schedule: Schedule, done: int) -> bool:
    every = schedule.evaluate_every
    return every is not None and done % max(1, round(every * stage.steps_per_epoch)) == 0


def _score(stage: Stage, history: History, done: int) -> None:
    stage.network.eval()
    scores = stage.score()
    _set_training(stage)
    if scores:
        history.scores.append({"step": done, **scores})
        stage.log(scores, done)


def _resume(stage: Stage, optimizer: _Optimizer, meter: _Meter, run: Run) -> int:
    state = run.load(checkpoint_name(stage.name))
    if state is None:
        return 0
    stage.network.load_state_dict(state["network"])
    optimizer.restore(state)
    vars(meter.history).update(state["history"])
    device = next(stage.network.parameters()).device
    meter.terms = [_to(device, terms) for terms in state["terms"]]
    meter.layers = _to(device, state["layers"])
    return int(state["step"])


def _save(stage: Stage, optimizer: _Optimizer, meter: _Meter, run: Run, step: int) -> None:
    state = {
        "step": step,
        "network": stage.network.state_dict(),
        "history": vars(meter.history),
        # Sums as they stand, so that a resumed run adds in the same order.
        "terms": meter.terms,
        "layers": meter.layers,
        **optimizer.state(),
        **stage.keep(),
    }
    run.save(checkpoint_name(stage.name), state)


def checkpoint_name(stage: str) -> str:
    """Name the checkpoint of a stage that is under way."""
    return f"{stage}-unfinished"


class _Meter:
    """Averages what steps report without waiting for the device at each of them."""

    def __init__(self, steps: int, stage: Stage) -> None:
        self.history = History(skipped=dict(stage.skipped))
        self.steps = steps
        self.stage = stage
        self.last_epoch_from = max(0, steps - stage.steps_per_epoch)
        self.terms: list[dict[str, Tensor]] = []
        self.layers: dict[str, Tensor] = {}

    def add(self, step: int, rate: float, losses: Losses, batches: list[Batch]) -> None:
        """Take in one step; every few steps its averages become a point of the record."""
        self.terms.append({"loss": losses.total.detach(), **losses.terms})
        for batch in batches:
            self.history.skipped.update(batch.skipped)
        if step >= self.last_epoch_from:
            for name, loss in losses.layers.items():
                self.layers[name] = self.layers.get(name, torch.zeros_like(loss)) + loss
        if (step + 1) % _RECORD_EVERY == 0 or step + 1 == self.steps:
            self._record(step + 1, rate)

    def finish(self) -> History:
        """Return the record of the whole stage."""
        self._gather_skipped()
        counted = self.steps - self.last_epoch_from
        self.history.layer_losses = {
            name: total.item() / counted for name, total in self.layers.items()
        }
        return self.history

    def _record(self, step: int, rate: float) -> None:
        means = {
            name: torch.stack([terms[name] for terms in self.terms]).mean().item()
            for name in self.terms[0]
        }
        if not all(math.isfinite(mean) for mean in means.values()):
            shown = ", ".join(f"{name} {mean:.3g}" for name, mean in means.items())
            raise TrainingError(
                f"training diverged before step {step}: {shown}. Lower the learning rate."
            )
        self.history.points.append({"step": step, "rate": rate, **means})
        self.stage.log({"rate": rate, **means}, step)
        self._gather_skipped()
        self.terms.clear()

    def _gather_skipped(self) -> None:
        self.history.skipped = dict(
            self.stage.processes.gathered(list(self.history.skipped.items()))
        )


def _to(device: torch.device, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in values.items()}


def _shown(point: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in point.items() if name not in ("step", "rate")}
