"""Class maps are scored as a plain loop and scikit-learn score them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from compress.data.ade20k import SceneParsing
from compress.errors import PlanError
from compress.evaluate import evaluate
from compress.metrics.segmentation import MeanIou, confusion, of_picture, pairs, shares
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import scenes

LABELS = labels.inline(list(scenes.CLASSES))
FORM = Preprocessing(60, 80, interpolation="bilinear", framing="letterbox")
CROP = Preprocessing(24, 24, 30)
BOX_KEYS = ["box_ap", "box_ap50", "box_ap75"]
MASK_KEYS = ["mask_ap", "mask_ap50", "mask_ap75"]


def random_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a truth with ignored pixels, and an answer that is right in most places."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 4, 255], (30, 40)).astype(np.uint8)
    answer = np.where(rng.random((30, 40)) < 0.7, truth, rng.integers(0, 6, (30, 40)))
    return truth, np.where(answer == 255, 5, answer).astype(np.uint8)


SAME_SIZE = Preprocessing(30, 40, framing="letterbox")


@pytest.mark.parametrize("seed", [0, 1])
def test_mean_iou_is_that_of_a_plain_loop_and_of_scikit_learn(seed):
    maps = [random_maps(3 * seed + index) for index in range(3)]
    truth, answer = (np.concatenate([pair[i].ravel() for pair in maps]) for i in (0, 1))
    counted = truth != 255
    truth, answer = truth[counted], answer[counted]

    found = [pairs(given, true, SAME_SIZE) for true, given in maps]
    scored = shares(confusion(found, 7))

    ious = []
    for index in range(7):
        either = (truth == index) | (answer == index)
        if either.any():
            ious.append(((truth == index) & (answer == index)).sum() / either.sum())
    # Class 3 is only ever answered, class 5 too; class 6 never occurs.
    assert len(ious) == 6
    occurring = np.union1d(truth, answer)
    assert scored["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert scored["mean_iou"] == pytest.approx(
        jaccard_score(truth, answer, labels=occurring, average="macro"), abs=1e-12
    )
    assert scored["pixel_accuracy"] == pytest.approx(accuracy_score(truth, answer), abs=1e-12)


@pytest.mark.parametrize("size_px", [(160, 60), (40, 30), (31, 77), (200, 3)])
def test_a_class_map_is_brought_back_to_its_picture(size_px):
    width, height = size_px
    scale = min(60 / height, 80 / width)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    given = np.random.default_rng(0).integers(0, 200, (60, 80)).astype(np.uint8)

    found = of_picture(given, size_px, FORM)

    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) * rows / height, (column + 0.5) * columns / width
            # Where a pixel lies between two, either is the nearest.
            around = {
                given[min(int(y + dy), rows - 1), min(int(x + dx), columns - 1)]
                for dy in (-1e-9, 1e-9)
                for dx in (-1e-9, 1e-9)
            }
            assert found[row, column] in around


def test_what_a_centre_crop_does_not_see_counts_as_wrong():
    truth = np.zeros((30, 60), np.uint8)
    truth[:, 30:] = 1
    answer = np.zeros((24, 24), np.uint8)
    answer[:, 12:] = 1

    scored = shares(confusion([pairs(answer, truth, CROP)], 2))

    # 24 x 24 of 60 x 30 pixels are seen, and all of them right.
    assert scored["pixel_accuracy"] == pytest.approx(24 * 24 / 1800)
    assert scored["mean_iou"] == pytest.approx(24 * 24 / 1800)


@pytest.fixture
def parsed(tmp_path: Path) -> SceneParsing:
    root = scenes.write_scenes(tmp_path / "scenes", [(80, 60)] * 4)
    images, maps = root / "images" / "training", root / "annotations" / "training"
    return SceneParsing(images, maps, LABELS, FORM)


def test_scenes_answered_by_their_own_colours_score_one(parsed):
    Path(parsed.files[2].path).write_bytes(b"no picture")

    def ask(images):
        # Black, which is not labelled, is answered too: it counts for nothing.
        seen = scenes.class_of(images)
        return {"class_map": np.where(seen == 255, 1, seen).astype(np.uint8)}

    score = evaluate(ask, parsed, MeanIou(parsed), "scenes")

    assert score.values == {"mean_iou": 1.0, "pixel_accuracy": 1.0}
    assert score.images == 3
    assert score.metric == "mean_iou"


def test_the_share_of_each_class_counts_not_that_of_each_picture(parsed):
    numbers = np.zeros((60, 80), np.uint8)
    numbers[:, :8] = 1
    numbers[:, 8:] = 2
    for stored in parsed.files:
        path = parsed.annotations / Path(stored.path).name
        Image.fromarray(numbers).save(path)

    green = evaluate(
        lambda images: {"class_map": np.ones(images.shape[:3], np.uint8)},
        parsed,
        MeanIou(parsed),
        "scenes",
    )

    assert green.values["pixel_accuracy"] == pytest.approx(0.9)
    assert green.values["mean_iou"] == pytest.approx((0 + 0.9) / 2)


@pytest.mark.parametrize("label", [3, 7, 254])
def test_an_answer_that_is_no_class_is_refused(parsed, label):
    with pytest.raises(PlanError, match=f"expected classes below 3 in class_map, got {label}"):
        evaluate(
            lambda images: {"class_map": np.full(images.shape[:3], label, np.uint8)},
            parsed,
            MeanIou(parsed),
            "scenes",
        )
