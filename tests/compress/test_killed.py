"""Runs that are killed in the middle of each stage, as far as a network's own state is concerned.

tests/compress/test_train.py kills at every step of one optimiser; here is what the stages add to
it: masks that move, reordered channels, formats that calibration chose, several processes.
"""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import ProcessExitedException

from compress import pipeline, report
from compress.data.batch import Batch
from compress.parallel import Processes
from compress.recipe import Recipe
from compress.tasks.classify import Classification
from tests.compress import processes, tiny

STEPS = 6
# Every step leaves a checkpoint.
ALWAYS_S = 1e-9
SCHEDULE: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 3e-3}
HALVES = {**SCHEDULE, "autocast": "float16", "micro_batch": 2}
# Chosen anew after two steps, settled after three.
MOVING = {"prune__masks": "recomputed", "prune__every": 2}
INT4 = {"quantize__weights": "int4", "quantize__activations": "int4"}
BMM = {"quantize__placement": "gemm+add+bmm"}
FP8 = {"quantize__weights": "fp8", "quantize__activations": "fp8"}
CASES: dict[str, dict[str, Any]] = {
    "recomputed": MOVING,
    "gradual 4:8": {**MOVING, "prune__masks": "gradual", "prune__pattern": "4:8"},
    "float16 in pieces": {**MOVING, "prune__schedule": HALVES, "quantize__schedule": HALVES},
    "permuted": {"prune__permute": True},
    "int4": {**INT4, **BMM, "quantize__observer": "mse", "quantize__first_last": "same"},
    "fp8": {**FP8, **BMM},
}


class _Killed(Exception):  # noqa: N818 - stands for a signal
    """What interrupts a run in this process."""


class _Mortal(Classification):
    """Ends its process when it is asked for one batch too many."""

    def __init__(self, recipe: Recipe, processes: Processes, lives: int, signals: bool) -> None:
        super().__init__(recipe, processes)
        self.lives, self.signals = lives, signals

    def inputs(
        self, batch: Batch, step: int, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if not self.lives:
            if self.signals:
                os.kill(os.getpid(), signal.SIGKILL)
            raise _Killed
        self.lives -= 1
        return super().inputs(batch, step, device)


def recipe(folder: Path, name: str, **changes: Any) -> Recipe:
    plain = {
        "network": {"checkpoint": str(folder / "checkpoint")},
        "teacher": None,
        "prune__schedule": SCHEDULE,
        "quantize__schedule": SCHEDULE,
        "run": str(folder / name),
        "checkpoint_every_s": ALWAYS_S,
        "trackers": [],
    }
    return tiny.recipe(folder, **{**plain, **changes})


def outcome(
    wanted: Recipe, lives: int = -1, at: Processes | None = None, *, signals: bool = False
) -> report.Outcome:
    """Make the networks, or die before batch number ``lives``."""
    at = at or Processes()
    work = pipeline.prepare(wanted, at)
    task = _Mortal(wanted, at, lives, signals)
    return pipeline.networks(dataclasses.replace(work, task=task))


def differences(one: report.Outcome, other: report.Outcome) -> list[str]:
    """Name what two runs do not have in common, bit by bit."""
    found = []
    for name, result in one.stages.items():
        again = other.stages[name]
        state = again.network.state_dict()
        found += [
            f"{name}: {key}"
            for key, value in result.network.state_dict().items()
            if not torch.equal(value, state[key])
        ]
        if result.scores != again.scores:
            found.append(f"{name}: scores")
        histories = [dataclasses.replace(entry.history, seconds=0) for entry in (result, again)]
        if histories[0] != histories[1]:
            found.append(f"{name}: history")
    masks = other.masks.masks
    return found + [
        f"mask of {key}"
        for key, mask in one.masks.masks.items()
        if not torch.equal(mask, masks[key])
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.body().save_pretrained(tmp_path / "checkpoint")
    tiny.write_pictures(tmp_path / "train", each=8)
    tiny.write_pictures(tmp_path / "test", each=2)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_in_both_stages_ends_as_an_unbroken_one_bit_by_bit(folder, case):
    expected = outcome(recipe(folder, "unbroken", **CASES[case]))
    broken = recipe(folder, "broken", **CASES[case])
    pieces = 2 if broken.prune.schedule.micro_batch else 1

    for stage, lives in (("sparse", 2), ("quantized", STEPS - 2 + 4)):
        with pytest.raises(_Killed):
            outcome(broken, lives * pieces)
        assert (broken.run / f"{stage}-unfinished.pt").exists()

    assert differences(outcome(broken), expected) == []


def two(at: Processes, folder: Path, lives: int) -> dict[str, Any]:
    """Run to the end without a break, then the same with one; or go on with the latter."""
    if lives:
        outcome(recipe(folder, "unbroken", **MOVING), at=at)
    outcome(
        recipe(folder, "broken", **MOVING), lives if at.main and lives else -1, at, signals=True
    )
    return {}


def test_two_processes_go_on_after_one_was_killed_bit_by_bit(folder):
    with pytest.raises(ProcessExitedException) as killed:
        processes.in_two(folder, two, folder, 2)
    assert killed.value.signal_name == "SIGKILL"
    assert (folder / "broken" / "sparse-unfinished.pt").exists()

    processes.in_two(folder, two, folder, 0)

    for name in ("sparse", "quantized"):
        one, other = (
            torch.load(folder / run / f"{name}.pt", weights_only=True)
            for run in ("unbroken", "broken")
        )
        for part in ("network", "masks"):
            assert all(torch.equal(other[part][key], value) for key, value in one[part].items())
        assert one["history"]["points"] == other["history"]["points"]
