"""One run of the optimiser: steps, schedule, checkpoints. Knows no task and no loss.

Every step depends on the seed, the step number and the state alone, so on a CPU a run that is
killed and resumed ends with the same weights, bit by bit, as one that was not. GPU kernels add in
no fixed order; there the two are equal but for rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.data.folder import Batch
from compress.errors import TrainingError

if TYPE_CHECKING:
    from compress.distill import Losses
    from compress.recipe import Schedule
    from compress.run import Run

_RECORD_EVERY = 10


@dataclass
class History:
    """What training recorded, in plain values.

    Args:
        points: One entry every few steps: step, learning rate and the mean of each term since
            the entry before.
        layer_losses: Mean feature loss of each layer over the last epoch.
        skipped: Pictures that could not be decoded, with the reason.
        seconds: Spent in steps, resumed runs included.
    """

    points: list[dict[str, float]] = field(default_factory=list)
    layer_losses: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One training stage: who is trained, on what, and where it is kept.

    Args:
        name: Of the checkpoint and of the progress bar.
        network: To train; its mode is set to training.
        loss: Of one batch.
        batches: Endless batches from a given step on.
        steps_per_epoch: Batches an epoch.
        after_step: Called with the network after every optimiser step: masks.
        keep: More state that a resumed run needs, such as the masks; plain and constant.
    """

    name: str
    network: nn.Module
    loss: Callable[[Batch, int], Losses]
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int
    after_step: Callable[[nn.Module], None] = lambda _network: None
    keep: dict[str, Any] = field(default_factory=dict)


def train(stage: Stage, schedule: Schedule, run: Run, checkpoint_every_s: float = 60.0) -> History:
    """Train one stage from its last checkpoint, or from the start, to its end.

    Returns:
        The record of the whole stage.

    Raises:
        TrainingError: The loss is no longer a number.
    """
    steps = total_steps(schedule, stage.steps_per_epoch)
    optimizer = _optimizer(stage.network, schedule)
    meter = _Meter(steps, stage.steps_per_epoch)
    first = _resume(stage, optimizer, meter, run)
    stage.network.train()
    since = time.monotonic()
    with tqdm(total=steps, initial=first, desc=stage.name, unit="step", dynamic_ncols=True) as bar:
        for step, batch in zip(range(first, steps), stage.batches(first), strict=False):
            # Dropout, where a network has any, draws from here.
            torch.manual_seed(step)
            rate = learning_rate(step, steps, schedule)
            losses = _step(stage, optimizer, schedule, batch, step, rate)
            meter.add(step, rate, losses, batch)
            if (step + 1) % _RECORD_EVERY == 0:
                bar.set_postfix(_shown(meter.history.points[-1]), refresh=False)
            bar.update()
            if time.monotonic() - since > checkpoint_every_s:
                meter.history.seconds += time.monotonic() - since
                since = time.monotonic()
                _save(stage, optimizer, meter, run, step + 1)
    meter.history.seconds += time.monotonic() - since
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


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # Biases, norms and scales are not decayed, as in the DeiT and Swin training recipes.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)


def _step(
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    batch: Batch,
    step: int,
    rate: float,
) -> Losses:
    for group in optimizer.param_groups:
        group["lr"] = rate
    device = next(stage.network.parameters()).device.type
    lower = schedule.autocast == "bfloat16"
    with torch.autocast(device, torch.bfloat16, enabled=lower):
        losses = stage.loss(batch, step)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(stage.network.parameters(), schedule.clip_norm)
    optimizer.step()
    stage.after_step(stage.network)
    return losses


def _resume(stage: Stage, optimizer: torch.optim.Optimizer, meter: _Meter, run: Run) -> int:
    state = run.load(checkpoint_name(stage.name))
    if state is None:
        return 0
    stage.network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    vars(meter.history).update(state["history"])
    device = next(stage.network.parameters()).device
    meter.terms = [_to(device, terms) for terms in state["terms"]]
    meter.layers = _to(device, state["layers"])
    return int(state["step"])


def _save(
    stage: Stage, optimizer: torch.optim.Optimizer, meter: _Meter, run: Run, step: int
) -> None:
    state = {
        "step": step,
        "network": stage.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(meter.history),
        # Sums as they stand, so that a resumed run adds in the same order.
        "terms": meter.terms,
        "layers": meter.layers,
        **stage.keep,
    }
    run.save(checkpoint_name(stage.name), state)


def checkpoint_name(stage: str) -> str:
    """Name the checkpoint of a stage that is under way."""
    return f"{stage}-unfinished"


class _Meter:
    """Averages what steps report without waiting for the device at each of them."""

    def __init__(self, steps: int, steps_per_epoch: int) -> None:
        self.history = History()
        self.steps = steps
        self.last_epoch_from = max(0, steps - steps_per_epoch)
        self.terms: list[dict[str, Tensor]] = []
        self.layers: dict[str, Tensor] = {}

    def add(self, step: int, rate: float, losses: Losses, batch: Batch) -> None:
        """Take in one step; every few steps its averages become a point of the record."""
        self.terms.append({"loss": losses.total.detach(), **losses.terms})
        self.history.skipped.update(batch.skipped)
        if step >= self.last_epoch_from:
            for name, loss in losses.layers.items():
                self.layers[name] = self.layers.get(name, torch.zeros_like(loss)) + loss
        if (step + 1) % _RECORD_EVERY == 0 or step + 1 == self.steps:
            self._record(step + 1, rate)

    def finish(self) -> History:
        """Return the record of the whole stage."""
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
        self.terms.clear()


def _to(device: torch.device, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in values.items()}


def _shown(point: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in point.items() if name not in ("step", "rate")}
