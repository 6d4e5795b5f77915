"""What only a GPU can show: the pipeline runs on one, and gives what it gives on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress import bundles, evaluate, pipeline, recipe_file, reference
from compress.criteria.classify import OneClass
from compress.data.batch import Batch
from compress.distill import MixedDistillation, Weights
from compress.prune import magnitude_masks
from compress.recipe import Schedule
from compress.tasks.classify import Classification
from compress.train import Stage, _Optimizer
from tests.compress import tiny

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device on this machine")


def test_digits_compressed_on_a_gpu_are_within_two_points_of_their_teacher(tmp_path):
    changes = [
        f"run={tmp_path / 'run'}",
        f"publish.repository={tmp_path / 'repository'}",
        f"data.train={tmp_path / 'digits' / 'train'}",
        f"data.evaluate={{test scans: {tmp_path / 'digits' / 'test'}}}",
    ]
    loaded = recipe_file.load(ROOT / "recipes" / "digits.yaml", changes)

    version = pipeline.compress(loaded)

    model, card = bundles.find(version.parent)
    images = Classification.opened(tmp_path / "digits" / "test", card.labels, card.preprocessing)
    ask = reference.onnx_asked(model)
    score = evaluate.evaluate(ask, images, evaluate.TopFive(), "stored model")
    teacher = card.accuracy[0].teacher
    assert teacher >= 0.95
    assert score.main >= teacher - 0.02


@pytest.mark.parametrize("autocast", ["float32", "bfloat16"])
def test_a_training_step_never_waits_for_the_gpu(autocast):
    teacher, student = tiny.network().cuda(), tiny.network(seed=1).cuda()
    masks = magnitude_masks(student, tiny.pruned_names(student))
    weights = Weights(1, 10, 5, 1.0, True, {"body.vit.layers.1": 1.0})
    compare = MixedDistillation(teacher, student, weights, OneClass())
    stage = Stage(
        name="stage",
        network=student,
        loss=lambda forward, batch, _step: compare(batch.images, None, forward),
        batches=lambda _first: iter(()),
        steps_per_epoch=4,
        after_step=lambda network, _step: masks.apply(network),
    )
    schedule = Schedule(epochs=1, learning_rate=1e-3, autocast=autocast)
    optimizer = _Optimizer(stage, schedule)
    batch = Batch(tiny.pictures(8).cuda(), torch.zeros(8))

    optimizer.step(student, [batch], 0, 1e-3)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(1, 4):
            optimizer.step(student, [batch], step, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
