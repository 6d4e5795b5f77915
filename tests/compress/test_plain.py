"""Where only pictures are looked at, nothing of what is annotated in them is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import pipeline
from compress.parallel import Processes
from tests.end_to_end import systems

WRITTEN = {
    "mask_rcnn": ("detect", systems.write_objects),
    "upernet": ("segment", systems.write_scenes),
}


@pytest.mark.parametrize("family", WRITTEN)
def test_calibration_reads_no_annotation(tmp_path, family):
    kind, write = WRITTEN[family]
    recipe = systems.recipe(tmp_path, family, kind, write(tmp_path))
    task = pipeline.prepare(recipe, Processes()).task
    served = [task.train.read(0, index)[0] for index in range(len(task.train))]
    shutil.rmtree(tmp_path / "train" / "annotations")

    found = torch.cat(task.calibration(len(served)))

    # Without crops and mirroring, training frames a picture as serving does.
    assert np.array_equal(found.numpy(), np.stack(served))
    assert task.skipped == {}


def test_a_damaged_picture_is_named_and_left_out_of_calibration(tmp_path):
    recipe = systems.recipe(tmp_path, "upernet", "segment", systems.write_scenes(tmp_path))
    task = pipeline.prepare(recipe, Processes()).task
    damaged = Path(task.train.name(0))
    damaged.write_bytes(b"no picture")

    found = torch.cat(task.calibration(5))

    assert len(found) == 4
    assert list(task.skipped) == [str(damaged)]
