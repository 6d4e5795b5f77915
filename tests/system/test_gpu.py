"""What only a GPU can show: the pipeline runs on one, and gives what it gives on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress import bundles, evaluate, pipeline, recipe_file

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
    images = evaluate.evaluation_images(tmp_path / "digits" / "test", card)
    score = evaluate.evaluate(evaluate.onnx_scorer(model), images, "stored model")
    teacher = card.accuracy[0].teacher
    assert teacher >= 0.95
    assert score.top1 >= teacher - 0.02
