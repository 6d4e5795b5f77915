"""Data that is there but teaches nothing, and files that are not there, are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress import pipeline
from compress.errors import DataError, RecipeError
from compress.metrics.segmentation import confusion, shares
from compress.parallel import Processes
from tests.end_to_end import systems


@pytest.fixture
def detection(tmp_path):
    return tmp_path, systems.write_objects(tmp_path)


def prepared(folder, data, **others):
    return pipeline.prepare(
        systems.recipe(folder, "mask_rcnn", "detect", data, **others), Processes()
    )


def test_annotations_without_any_object_teach_nothing(detection):
    folder, data = detection
    file = Path(data["train"])
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))

    with pytest.raises(DataError, match=r"expected objects to learn from .*data\.labelled: false"):
        prepared(folder, data)


def test_annotations_that_are_not_there_are_said_to_be_missing(detection):
    folder, data = detection
    absent = data["train"].replace("instances_all", "instances_al")

    with pytest.raises(RecipeError, match=r"instances_al\.json, found no such file"):
        prepared(folder, {**data, "train": absent})


def test_another_number_of_classes_than_the_labels_name_is_refused(detection):
    folder, data = detection
    architecture = {**systems.ARCHITECTURES["mask_rcnn"], "num_labels": 7}
    network = {"family": "mask_rcnn", "architecture": architecture}

    with pytest.raises(RecipeError, match=r"num_labels: expected the 3 of data.labels, got 7"):
        pipeline.networks(prepared(folder, data, network=network))


@pytest.mark.parametrize("blank", [0, 255])
def test_class_maps_without_a_labelled_pixel_teach_nothing(tmp_path, blank):
    data = systems.write_scenes(tmp_path)
    maps = sorted(Path(data["train"].replace("images", "annotations")).glob("*.png"))
    for path in maps:
        with Image.open(path) as image:
            Image.new("L", image.size, blank).save(path)
    made = systems.recipe(tmp_path, "upernet", "segment", data)

    with pytest.raises(DataError, match=r"labelled pixels to learn from .* data\.labelled: false"):
        pipeline.prepare(made, Processes())
    # One pixel in one of them is enough; a damaged map is no reason.
    maps[0].write_bytes(b"no picture")
    with Image.open(maps[1]) as image:
        image.putpixel((0, 0), 1)
        image.save(maps[1])
    assert len(pipeline.prepare(made, Processes()).task.train) == len(maps)


def test_class_maps_without_a_labelled_pixel_score_nothing():
    with pytest.raises(DataError, match="0 is unlabelled and classes begin at 1"):
        shares(confusion([], 3))
    assert shares(np.eye(3, 4, dtype=np.int64)) == {"mean_iou": 1.0, "pixel_accuracy": 1.0}
