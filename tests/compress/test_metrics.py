import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.answers import Answers
from compress.data.coco import CocoImages
from compress.errors import DataError, PlanError
from compress.evaluate import METRICS, Score, evaluate
from compress.metrics.detection import AveragePrecision, average_precision, detections
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import scenes

LABELS = labels.inline(list(scenes.CLASSES))
FORM = Preprocessing(60, 80, interpolation="bilinear", framing="letterbox")
CROP = Preprocessing(24, 24, 30)
BOX_KEYS = ["box_ap", "box_ap50", "box_ap75"]
MASK_KEYS = ["mask_ap", "mask_ap50", "mask_ap75"]


def random_objects(rng: np.random.Generator, size_px: tuple[int, int]) -> list[tuple[int, ...]]:
    found = []
    for _ in range(rng.integers(0, 7)):
        wide, high = (int(rng.integers(4, side // 2)) for side in size_px)
        left = int(rng.integers(0, size_px[0] - wide))
        top = int(rng.integers(0, size_px[1] - high))
        crowd = ("crowd",) if rng.random() < 0.2 else ()
        found.append((int(rng.integers(0, 3)), left, top, wide, high, *crowd))
    return found


@pytest.fixture
def objects(tmp_path: Path) -> CocoImages:
    rng = np.random.default_rng(0)
    sizes_px = [(80, 60), (40, 70), (160, 120), (90, 30), (64, 64), (100, 100)] * 2
    pictures = [(size_px, random_objects(rng, size_px)) for size_px in sizes_px]
    root = scenes.write_objects(tmp_path / "objects", pictures)
    return CocoImages(root / "images", root / "instances.json", LABELS, FORM)


def blurred_truth(objects: CocoImages, seed: int) -> list[list[dict]]:
    """Return detections that are partly right: boxes moved, some missing, some invented."""
    rng = np.random.default_rng(seed)
    found = []
    for truth in objects.annotated:
        (width, height), detected = truth.size_px, []
        for record in truth.records:
            for _ in range(int(rng.integers(0, 3))):
                box = np.array(record["bbox"]) * rng.uniform(0.85, 1.15, 4)
                left, top = max(0, box[0]), max(0, box[1])
                right, bottom = min(width, left + box[2]), min(height, top + box[3])
                label = record["category_id"] if rng.random() < 0.8 else int(rng.integers(0, 3))
                mask = np.zeros((height, width), np.uint8, order="F")
                mask[round(top) : round(bottom), round(left) : round(right)] = 1
                encoded = coco_mask.encode(mask)
                detected.append(
                    {
                        "category_id": label,
                        "bbox": [left, top, right - left, bottom - top],
                        "score": float(rng.random()),
                        "segmentation": encoded,
                    }
                )
        found.append(detected)
    return found


def by_reference(objects: CocoImages, found: list[list[dict]], kind: str) -> list[float]:
    """Run COCO's code as its users do: on its annotation file and a file of results."""
    path = Path(objects.files[0].path).parent.parent / "instances.json"
    numbered = json.loads(path.read_text())
    # COCOeval takes the object number 0 for none.
    for annotation in numbered["annotations"]:
        annotation["id"] += 1
    path.write_text(json.dumps(numbered))
    results = [
        {
            "image_id": truth.image_id,
            "category_id": scenes.CATEGORIES[one["category_id"]]["id"],
            "score": one["score"],
            **(
                {"bbox": one["bbox"]}
                if kind == "bbox"
                else {
                    "segmentation": {
                        **one["segmentation"],
                        "counts": one["segmentation"]["counts"].decode(),
                    }
                }
            ),
        }
        for truth, detected in zip(objects.annotated, found, strict=True)
        for one in detected
    ]
    stored = path.with_name("results.json")
    stored.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCOeval(truth := COCO(str(path)), truth.loadRes(str(stored)), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    return reference.stats[:3].tolist()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("kind", "keys"), [("bbox", BOX_KEYS), ("segm", MASK_KEYS)])
def test_average_precision_is_that_of_cocos_own_code_on_stored_predictions(
    objects, seed, kind, keys, capsys
):
    found = blurred_truth(objects, seed)

    scored = average_precision(objects.annotated, found, kind)

    assert capsys.readouterr().out == ""
    assert list(scored) == keys
    assert list(scored.values()) == pytest.approx(by_reference(objects, found, kind), abs=1e-12)
    assert 0.05 < scored[keys[0]] < 0.9


def answers_of(objects: CocoImages, *, cells: int = 28) -> list[Answers]:
    """Return the truth as a network would answer it, with places to spare."""
    answers = []
    for truth in objects.annotated:
        count = len(truth.boxes)
        width, height = truth.size_px
        scale = min(FORM.height / height, FORM.width / width)
        input_px = max(1, round(width * scale)), max(1, round(height * scale))
        factors = [input_px[0] / width / FORM.width, input_px[1] / height / FORM.height] * 2
        answer = {
            "scores": np.zeros(10, np.float32),
            "labels": np.zeros(10, np.int32),
            "boxes": np.zeros((10, 4), np.float32),
            "masks": np.ones((10, cells, cells), np.float32),
        }
        answer["scores"][:count] = np.linspace(0.9, 0.5, count)
        answer["labels"][:count] = truth.labels
        answer["boxes"][:count] = truth.boxes * factors
        answers.append(answer)
    return answers


def scored_objects(objects: CocoImages, answers: list[Answers]) -> Score:
    """Evaluate as the pipeline does; answers come in the order of the pictures."""
    rest = iter(answers)

    def ask(images):
        some = [next(rest) for _ in images]
        return {name: np.stack([one[name] for one in some]) for name in some[0]}

    return evaluate(ask, objects, AveragePrecision(objects), "objects")


def test_the_truth_itself_scores_one_crowds_or_not(objects):
    assert any(record["iscrowd"] for truth in objects.annotated for record in truth.records)

    score = scored_objects(objects, answers_of(objects))

    assert score.values == pytest.approx(dict.fromkeys([*BOX_KEYS, *MASK_KEYS], 1.0))
    assert score.metric == "box_ap"
    assert set(score.values) <= set(METRICS)


def test_boxes_alone_are_scored_without_masks(objects):
    answers = answers_of(objects)
    for answer in answers:
        answer.pop("masks")

    assert list(scored_objects(objects, answers).values) == BOX_KEYS


def test_masks_are_not_scored_where_none_are_annotated(objects):
    answers = answers_of(objects)
    root = Path(objects.files[0].path).parent.parent
    scenes.edited(root, lambda plain: [one.pop("segmentation") for one in plain["annotations"]])
    boxed = CocoImages(root / "images", root / "instances.json", LABELS, FORM)

    assert list(scored_objects(boxed, answers).values) == BOX_KEYS


def test_a_damaged_picture_does_not_shift_the_answers_of_the_others(objects):
    Path(objects.files[1].path).write_bytes(b"no picture")
    answers = answers_of(objects)
    del answers[1]

    score = scored_objects(objects, answers)

    assert score.images == len(objects) - 1
    assert score.values["box_ap"] == pytest.approx(1.0)


def test_detections_are_in_pixels_of_the_picture_and_cut_to_it():
    # 160 x 60 pixels become 80 x 30 of 80 x 60.
    answer = {
        "scores": np.array([0.2, 0.9, 0.0, 0.5, np.nan], np.float32),
        "labels": np.array([2, 1, 0, 0, 0], np.int32),
        "boxes": np.array(
            [
                [0.25, 0.25, 0.5, 0.5],
                [-0.1, 0.1, 0.5, 0.75],
                [0, 0, 1, 1],
                [0.2, 0.6, 0.4, 0.9],
                [0, 0, 1, 1],
            ],
            np.float32,
        ),
    }

    found = detections(answer, (160, 60), FORM)

    # The unused place, the one below the picture and the one that is no number are left out.
    assert [one["category_id"] for one in found] == [1, 2]
    assert found[0]["bbox"] == pytest.approx([0, 12, 80, 48])
    assert found[1]["bbox"] == pytest.approx([40, 30, 40, 30])
    assert found[0]["score"] == pytest.approx(0.9)


def test_a_mask_is_laid_over_its_whole_box():
    mask = np.zeros((28, 28), np.float32)
    mask[:, 14:] = 1
    answer = {
        "scores": np.array([0.9], np.float32),
        "labels": np.array([0], np.int32),
        "boxes": np.array([[0.5, 0.0, 1.5, 1.0]], np.float32),
        "masks": mask[None],
    }

    (inside,) = detections(
        {**answer, "boxes": answer["boxes"] - [0.5, 0, 0.5, 0]}, (160, 120), FORM
    )
    (beyond,) = detections(answer, (160, 120), FORM)

    drawn = coco_mask.decode(inside["segmentation"])
    assert drawn.shape == (120, 160)
    assert drawn[:, :80].sum() == 0
    # Interpolation against nothing rounds the corners.
    assert drawn[4:-4, 80:].all()
    # Its right half is where no picture is.
    assert coco_mask.area(beyond["segmentation"]) == 0
    assert beyond["bbox"] == pytest.approx([80, 0, 80, 120])


def test_no_detection_at_all_scores_zero(objects):
    nothing = [[] for _ in objects.annotated]

    for kind in ("bbox", "segm"):
        assert set(average_precision(objects.annotated, nothing, kind).values()) == {0.0}


def test_masks_that_are_missing_and_sets_without_objects_are_refused(objects, tmp_path):
    found = blurred_truth(objects, 1)
    next(filter(None, found))[0].pop("segmentation")
    with pytest.raises(DataError, match="expected a mask with every detection"):
        average_precision(objects.annotated, found, "segm")

    crowds = scenes.write_objects(tmp_path / "crowds", [((40, 40), [(0, 2, 2, 9, 9, "crowd")])])
    empty = CocoImages(crowds / "images", crowds / "instances.json", LABELS, FORM)
    with pytest.raises(DataError, match="expected annotated objects"):
        average_precision(empty.annotated, [[]], "bbox")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_detection_of_no_class_is_refused(objects, label):
    answers = answers_of(objects)
    place = next(index for index, answer in enumerate(answers) if answer["scores"][0] > 0)
    answers[place]["labels"][0] = label

    with pytest.raises(PlanError, match=f"expected classes below 3 in labels, got {label}"):
        scored_objects(objects, answers)
