import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from compress.data.coco import CocoImages
from compress.data.framing import Framing
from compress.data.loading import ordered_batches, training_batches
from compress.errors import DataError
from compress.recipe import Augment
from contract import labels
from contract.letterbox import Placement
from contract.preprocess import Preprocessing
from tests.compress import scenes

LABELS = labels.inline(list(scenes.CLASSES))
LETTERBOX = Preprocessing(48, 64, interpolation="bilinear", framing="letterbox")
CROP = Preprocessing(40, 40, 48, interpolation="bilinear")
CROPS = Augment(crop_scale=(0.3, 0.9), crop_aspect=2.0, flip=True)
# No two objects of a picture share a colour, so that each can be found again.
PICTURES = [
    ((80, 60), [(0, 8, 10, 30, 40), (2, 50, 20, 24, 24)]),
    ((40, 70), [(1, 10, 30, 20, 24)]),
    ((50, 50), []),
    ((90, 30), [(2, 4, 4, 24, 22), (0, 40, 6, 20, 20, "crowd"), (1, 66, 5, 20, 20)]),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return scenes.write_objects(tmp_path / "objects", PICTURES)


def opened(root: Path, form: Preprocessing = LETTERBOX, **options) -> CocoImages:
    return CocoImages(root / "images", root / "instances.json", LABELS, form, **options)


@pytest.mark.parametrize("form", [LETTERBOX, CROP])
@pytest.mark.parametrize("augment", [None, Augment(flip=True), CROPS])
def test_boxes_and_masks_lie_where_the_picture_shows_their_objects(root, form, augment):
    pictures = opened(root, form, augment=augment, masks=True)
    found = 0
    for epoch in range(10):
        for index in range(len(pictures)):
            sample = pictures[epoch, index]
            objects = sample.target
            assert objects["masks"].shape == (len(objects["boxes"]), form.height, form.width)
            assert objects["masks"].dtype == np.uint8
            assert (objects["boxes"].dtype, objects["labels"].dtype) == (np.float32, np.int64)
            for box, label, mask in zip(*objects.values(), strict=True):
                shown = _strength(sample.pixels, label) > 0.5
                _assert_around(box, shown)
                # A pixel at each edge, of objects at least 20 pixels wide.
                assert (mask[shown].mean(), mask[~shown].mean()) > (0.85, 0.0)
                assert mask[~shown].sum() <= 2 * (np.ptp(box[::2]) + np.ptp(box[1::2]))
                found += 1
    assert found >= 30


def _strength(pixels: np.ndarray, label: int) -> np.ndarray:
    """Return how much of each pixel an object covers, which is alone in its colour channel."""
    others = np.delete(pixels.astype(float), label, axis=-1).max(axis=-1)
    return np.maximum(0, pixels[..., label] - others) / 255


def _assert_around(box: np.ndarray, shown: np.ndarray) -> None:
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    tight = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    # Half a pixel by rounding, half one by blending.
    assert np.abs(box - tight).max() <= 1, (box, tight)


def test_a_box_is_scaled_as_its_picture_is(root):
    (batch,) = ordered_batches(opened(root), 8)

    # 80 x 60 pixels become 64 x 48, and 40 x 70 become 27 x 48.
    assert batch.targets["boxes"][0, :2].tolist() == pytest.approx(
        np.array([[6.4, 8, 30.4, 40], [40, 16, 59.2, 35.2]])
    )
    scale = (27 / 40, 48 / 70)
    expected = [10 * scale[0], 30 * scale[1], 30 * scale[0], 54 * scale[1]]
    assert batch.targets["boxes"][1, 0].tolist() == pytest.approx(expected)
    assert batch.targets["labels"].tolist() == [[0, 2], [1, -1], [-1, -1], [2, 1]]
    assert set(batch.targets) == {"boxes", "labels"}


def test_crowds_are_kept_for_evaluation_alone(root):
    pictures = opened(root, masks=True)

    assert pictures[0, 3].target["labels"].tolist() == [2, 1]
    records = pictures.truth(3).records
    assert [(record["category_id"], record["iscrowd"]) for record in records] == [
        (2, 0),
        (0, 1),
        (1, 0),
    ]
    assert records[1]["segmentation"] == scenes.run_lengths((40, 6, 20, 20), (90, 30))


def test_run_lengths_of_a_single_object_are_a_mask_too(root):
    def as_run_lengths(plain):
        first = plain["annotations"][0]
        first["segmentation"] = scenes.run_lengths((8, 10, 30, 40), (80, 60))

    drawn = opened(root, masks=True, augment=Augment(flip=True))
    scenes.edited(root, as_run_lengths)
    moved = opened(root, masks=True, augment=Augment(flip=True))

    for epoch in range(4):
        one, other = (set_[epoch, 0].target["masks"][0] for set_ in (drawn, moved))
        # The edges of an object of 24 x 32 pixels.
        assert one.sum() > 700
        assert (one != other).sum() <= 2 * (24 + 32)


def test_a_box_that_leaves_the_picture_is_cut_to_it(tmp_path):
    root = scenes.write_objects(tmp_path, [((64, 48), [(0, -10, 30, 30, 40)])])

    pictures = opened(root, masks=True)

    objects = pictures[0, 0].target
    assert objects["boxes"].tolist() == [[0, 30, 20, 48]]
    assert objects["masks"][0, 30:, :20].all()
    assert objects["masks"].sum() == 18 * 20
    # The truth is the file's own.
    assert pictures.truth(0).records[0]["bbox"] == [-10, 30, 30, 40]


def test_nothing_is_drawn_beside_a_letterboxed_picture(tmp_path):
    root = scenes.write_objects(tmp_path, [((40, 48), [(0, 10, 10, 60, 60)])])

    objects = opened(root, masks=True)[0, 0].target

    assert objects["boxes"].tolist() == [[10, 10, 40, 48]]
    assert objects["masks"].sum() == 30 * 38


@pytest.mark.parametrize("box", [(10, 10, 0, 5), (10, 10, 5, 0), (64, 10, 5, 5), (-9, 10, 9, 5)])
def test_a_box_without_any_area_is_dropped_and_named(tmp_path, box):
    root = scenes.write_objects(tmp_path, [((64, 48), [(0, 2, 2, 9, 9), (1, *box)])])

    pictures = opened(root)

    assert pictures[0, 0].target["labels"].tolist() == [0]
    ((name, reason),) = pictures.dropped.items()
    assert name == "00.png, object 1"
    assert "no area inside the picture" in reason
    assert len(pictures.truth(0).records) == 2


@pytest.mark.parametrize(
    "outline",
    [
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, float("nan"), 5, 6]],
        [[1, 2, 3, 1e300, 5, 6]],
        {"size": [64, 48], "counts": [48 * 64]},
        {"size": [48, 64], "counts": [48 * 64 - 1]},
        {"size": [48, 64], "counts": [48 * 64 + 5, -5]},
        {"size": [48, 64], "counts": [48 * 64 - 0.5, 0.5]},
        {"size": [48, 64], "counts": "ooooo"},
        {"size": [48, 64], "counts": "\u00e4"},
        {"size": [48, 64], "counts": None},
    ],
)
def test_an_object_whose_outline_cannot_be_drawn_is_dropped_where_masks_are_asked_for(
    tmp_path, outline
):
    root = scenes.write_objects(tmp_path, [((64, 48), [(0, 2, 2, 9, 9), (1, 3, 3, 9, 9)])])
    scenes.edited(root, lambda plain: plain["annotations"][1].update(segmentation=outline))

    assert opened(root)[0, 0].target["labels"].tolist() == [0, 1]
    pictures = opened(root, masks=True)
    assert pictures[0, 0].target["labels"].tolist() == [0]
    assert list(pictures.dropped) == ["00.png, object 1"]


def test_compressed_run_lengths_are_drawn(tmp_path):
    root = scenes.write_objects(tmp_path, [((64, 48), [(0, 2, 4, 9, 7)])])
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[4:11, 2:11] = 1
    text = {"size": [48, 64], "counts": coco_mask.encode(mask)["counts"].decode()}
    scenes.edited(root, lambda plain: plain["annotations"][0].update(segmentation=text))

    (drawn,) = opened(root, masks=True)[0, 0].target["masks"]

    assert (drawn == mask).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_a_crop_leaves_less_than_a_quarter_of_is_left_out(mirrored):
    # Half as large, without the left 10 pixels and the lower half.
    framing = Framing((110, 100), (50, 25), Placement((10, 0, 110, 50), (50, 25)), mirrored)
    boxes = [
        [0, 0, 13, 20],  # 3 of 13 columns
        [0, 0, 14, 20],  # 4 of 14
        [30, 40, 50, 81],  # 10 of 41 rows
        [30, 40, 50, 79],  # 10 of 39
        [200, 0, 220, 20],
        [60, 10, 60.9, 11],  # 0.225 of a pixel of the sample
        [60, 10, 61.1, 11],
    ]

    found, kept = framing.boxes(np.array(boxes, float))

    assert kept.tolist() == [1, 3, 6]
    left = np.array([[0, 0, 2, 10], [10, 20, 20, 25], [25, 5, 25.55, 5.5]])
    right = np.stack([50 - left[:, 2], left[:, 1], 50 - left[:, 0], left[:, 3]], axis=1)
    np.testing.assert_allclose(found, right if mirrored else left, atol=1e-5)


def test_pictures_without_objects_train_too(root):
    (batch,) = next(training_batches(opened(root, augment=CROPS), 4))

    assert sorted(batch.indices) == [0, 1, 2, 3]
    place = batch.indices.index(2)
    assert batch.targets["labels"][place].tolist() == [-1] * batch.targets["labels"].shape[1]


@pytest.mark.parametrize("how", ["missing", "damaged", "of another size"])
def test_a_bad_picture_is_named_and_skipped(root, how):
    path = root / "images" / "01.png"
    if how == "missing":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:50])
    else:
        Image.new("RGB", (70, 40)).save(path)

    (batch,) = ordered_batches(opened(root), 8)

    ((name, reason),) = batch.skipped
    assert name == str(path)
    if how == "of another size":
        assert reason == "its annotations are of a picture of 40 x 70, it has 70 x 40"
    assert batch.indices == (0, 2, 3)


def test_pictures_without_annotations_have_no_target(root):
    pictures = CocoImages(root / "images", None, LABELS, LETTERBOX, CROPS)

    (batch,) = next(training_batches(pictures, 4))

    assert batch.tensor.tolist() == [-1] * 4


def test_categories_are_known_by_name_whatever_their_numbers(root):
    others = labels.inline(["sky", "Blue", "green", "red"])

    pictures = CocoImages(root / "images", root / "instances.json", others, LETTERBOX)

    assert pictures[0, 0].target["labels"].tolist() == [3, 1]


def test_a_category_that_is_no_class_is_refused_by_name(root):
    known = labels.inline(["red", "green"])

    with pytest.raises(DataError, match=r"1 categories of .* 'inline': blue\. Rename them"):
        CocoImages(root / "images", root / "instances.json", known, LETTERBOX)


def test_a_category_without_objects_need_not_be_known(root):
    scenes.edited(root, lambda plain: plain["categories"].append({"id": 1, "name": "tree"}))

    assert len(opened(root)) == 4


def _without(part: str, key: str):
    return lambda plain: plain[part][0].pop(key)


def _with(part: str, **values):
    return lambda plain: plain[part][0].update(values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("annotations", "bbox"), "KeyError: 'bbox'.*needs id"),
        (_without("images", "width"), "KeyError: 'width'"),
        (_with("annotations", bbox=[1, 2, 3]), r"annotations\[0\]: ValueError: not enough values"),
        (_with("annotations", segmentation=[list("abcdef")]), "TypeError.*'str'"),
        (_with("annotations", bbox=[1, 2, 3, float("nan")]), "bbox .* of object 0"),
        (lambda plain: plain["images"].append(plain["images"][0]), "several pictures with one id"),
        (_with("annotations", category_id=99), "categories that it does not list: 99"),
        (_with("annotations", image_id=5), "1 objects .* in pictures that it does not list: 5"),
        (lambda plain: plain.pop("categories"), "expected lists of images, annotations"),
        (lambda plain: plain["images"].clear(), "expected pictures in .*, found none"),
    ],
)
def test_a_file_in_another_layout_is_refused_with_a_reason(root, change, reason):
    path = scenes.edited(root, change)

    with pytest.raises(DataError) as refused:
        opened(root, masks=True)

    assert re.search(reason, str(refused.value))
    assert str(path) in str(refused.value)


def test_what_cannot_be_opened_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"expected annotations at .*absent"):
        CocoImages(root / "images", tmp_path / "absent.json", LABELS, LETTERBOX)
    with pytest.raises(DataError, match=r"expected a folder of pictures at .*absent"):
        CocoImages(tmp_path / "absent", root / "instances.json", LABELS, LETTERBOX)
    (root / "instances.json").write_text(json.dumps(None)[:2])
    with pytest.raises(DataError, match="expected annotations in JSON at"):
        opened(root)
