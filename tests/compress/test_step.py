"""What one training step may not do, whichever stage it belongs to."""

import gc
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import pipeline
from compress.data.batch import Batch
from compress.errors import CheckpointError
from compress.formats import INT4, INT8
from compress.networks.network import Classifier
from compress.parallel import Processes
from compress.quantize import WeightQuantizer
from compress.recipe import Recipe, Schedule
from compress.report import Outcome
from compress.run import Run
from compress.tasks.classify import Classification
from compress.unload import unloaded
from compress.work import Work
from tests.compress import tiny
from tests.compress.operators import waits

# Fewer than the ten after which training looks at its losses for the first time.
STEPS = 6


class Watched(Classification):
    """Notes what training does between asking for one step's pictures and for the next one's."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.steps: dict[str, list[list[str]]] = defaultdict(list)
        # Other tests' networks.
        self.others = networks()
        # By stage, before its first step: networks with weights, and those with gradients.
        self.held: dict[str, tuple[int, int]] = {}

    def batches(self, schedule: Schedule, first_step: int) -> Iterator[list[Batch]]:
        stages = {
            "teacher": self.recipe.teacher,
            "sparse": self.recipe.prune.schedule,
            "quantized": self.recipe.quantize.schedule,
        }
        stage = next(name for name, one in stages.items() if one is schedule)
        own = [one for one in networks() if not any(one is other for other in self.others)]
        self.held[stage] = len(with_weights(own)), len(with_gradients(own))
        for batches in super().batches(schedule, first_step):
            with waits() as found:
                self.steps[stage].append(found)
                yield batches


def networks() -> list[Classifier]:
    gc.collect()
    # Its type alone: some of all objects warn when they are asked for their class.
    return [found for found in gc.get_objects() if type(found) is Classifier]


def with_weights(found: list[Classifier]) -> list[Classifier]:
    return [one for one in found if any(weight.numel() for weight in one.parameters())]


def with_gradients(found: list[Classifier]) -> list[Classifier]:
    return [one for one in found if any(weight.grad is not None for weight in one.parameters())]


def watched(folder: Path, **changes: Any) -> tuple[Watched, Outcome]:
    tiny.write_pictures(folder / "train", each=4)
    tiny.write_pictures(folder / "test", each=1)
    work = pipeline.prepare(tiny.recipe(folder, trackers=[], **changes), Processes())
    task = Watched(work.recipe)
    return task, pipeline.networks(Work(work.recipe, work.run, task))


def in_both(autocast: str, **changes: Any) -> dict[str, Any]:
    schedule = {**tiny.SCHEDULE, "autocast": autocast, **changes}
    return {"prune__schedule": schedule, "quantize__schedule": schedule}


CASES: dict[str, dict[str, Any]] = {
    "bfloat16, INT4 in pieces": {
        **in_both("bfloat16", micro_batch=2),
        "quantize__weights": "int4",
        "quantize__activations": "int4",
        "quantize__placement": "gemm+add+bmm",
    },
    "float16, masks that move": {
        **in_both("float16"),
        "prune__masks": "recomputed",
        "prune__every": 2,
    },
    "bfloat16, blends without labels": {
        **in_both("bfloat16"),
        "data__labelled": False,
        "data__augment": {"mix": 0.7},
        "distill__agree_only": False,
    },
}


def assert_no_step_waits(steps: dict[str, list[list[str]]]) -> None:
    for stage, (*waiting, last) in steps.items():
        assert waiting == [[]] * (STEPS - 1), stage
        # The last step looks at the losses: what is noted is not empty because nothing can be.
        assert "aten._local_scalar_dense.default" in last


@pytest.mark.parametrize("case", CASES)
def test_no_step_of_distillation_waits_for_the_device(tmp_path, case):
    tiny.body().save_pretrained(tmp_path / "checkpoint")
    loaded = {"checkpoint": str(tmp_path / "checkpoint")}

    task, _ = watched(tmp_path, network=loaded, teacher=None, **CASES[case])

    assert set(task.steps) == {"sparse", "quantized"}
    assert_no_step_waits(task.steps)


def test_no_step_from_scratch_in_float32_waits_for_the_device(tmp_path):
    task, _ = watched(tmp_path)

    assert set(task.steps) == {"teacher", "sparse", "quantized"}
    assert_no_step_waits(task.steps)


@pytest.mark.parametrize("teacher", ["sparse", "dense"])
def test_memory_holds_teacher_and_student_alone_until_all_networks_are_made(tmp_path, teacher):
    task, outcome = watched(tmp_path, quantize__teacher=teacher)

    assert task.held == {"teacher": (1, 0), "sparse": (2, 0), "quantized": (2, 0)}
    for name, result in (("teacher", outcome.dense), ("sparse", outcome.sparse)):
        kept = torch.load(tmp_path / "run" / f"{name}.pt", weights_only=True)["network"]
        for key, value in result.network.state_dict().items():
            assert torch.equal(value, kept[key]), key


def test_weights_that_are_gone_from_the_folder_are_missed_by_name(tmp_path):
    run = Run(tmp_path / "run", "digest")

    with (
        pytest.raises(CheckpointError, match=r"expected teacher\.pt in .*run"),
        unloaded(tiny.network(), run, "teacher"),
    ):
        pass


@pytest.mark.parametrize(
    "quantizer", [WeightQuantizer(INT8), WeightQuantizer(INT4, 8)], ids=["channels", "blocks"]
)
def test_rounding_a_weight_needs_none_of_its_values(quantizer):
    # Nothing has a value there: to read one is an error, inside of a kernel as well.
    weight = torch.zeros(4, 16, device="meta", requires_grad=True)

    quantizer(weight).sum().backward()

    assert weight.grad.shape == weight.shape
