import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.ade20k import SceneParsing
from compress.data.loading import ordered_batches, training_batches
from compress.errors import DataError
from compress.recipe import Augment
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import scenes

SIZES_PX = [(40, 30), (33, 61), (24, 24), (90, 20), (31, 33)]
LABELS = labels.inline(list(scenes.CLASSES))
LETTERBOX = Preprocessing(24, 32, interpolation="bilinear", framing="letterbox")
CROP = Preprocessing(20, 20, 24, interpolation="bilinear")
CROPS = Augment(crop_scale=(0.2, 0.9), crop_aspect=2.0, flip=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return scenes.write_scenes(tmp_path / "scenes", SIZES_PX)


def opened(root: Path, form: Preprocessing = LETTERBOX, **options) -> SceneParsing:
    images, maps = root / "images" / "training", root / "annotations" / "training"
    return SceneParsing(images, maps, LABELS, form, **options)


@pytest.mark.parametrize("form", [LETTERBOX, CROP])
@pytest.mark.parametrize("augment", [None, Augment(flip=True), CROPS])
def test_each_pixel_has_the_class_of_what_it_shows(root, form, augment):
    pictures = opened(root, form, augment=augment)

    for epoch in range(8):
        for index in range(len(pictures)):
            sample = pictures[epoch, index]
            assert sample.target.shape == (form.height, form.width)
            # The ground of a letterbox is grey and shows no class.
            grey = (sample.pixels == (124, 116, 104)).all(axis=-1)
            seen = np.where(grey, 255, scenes.class_of(sample.pixels))
            # Between tiles colours are blended; in and around them nothing else is.
            assert (sample.target == seen).mean() > 0.85
            inner = _inner(seen)
            assert inner.any()
            assert np.array_equal(sample.target[inner], seen[inner])


def _inner(class_map: np.ndarray) -> np.ndarray:
    """Say which pixels have the same class as all within two pixels."""
    inner = np.zeros(class_map.shape, bool)
    for row in range(2, class_map.shape[0] - 2):
        for column in range(2, class_map.shape[1] - 2):
            around = class_map[row - 2 : row + 3, column - 2 : column + 3]
            inner[row, column] = (around == class_map[row, column]).all()
    return inner


def test_a_letterbox_without_crops_shows_training_the_whole_picture(root):
    served, trained = opened(root), opened(root, augment=Augment(flip=True))

    mirrored = 0
    for epoch in range(20):
        same, other = served[0, 1], trained[epoch, 1]
        assert same.target.shape == (24, 32)
        if not np.array_equal(same.target, other.target):
            # 33 x 61 pixels become 13 x 24, at the left.
            for one, two in ((same.target, other.target), (same.pixels, other.pixels)):
                assert np.array_equal(one[:, :13][:, ::-1], two[:, :13])
                assert np.array_equal(one[:, 13:], two[:, 13:])
            mirrored += 1
    assert 4 <= mirrored <= 16


def test_zero_and_255_are_ignored_and_one_is_the_first_class(root):
    path = root / "annotations" / "training" / "02.png"
    numbers = np.tile(np.array([0, 1, 2, 3, 255, 1], np.uint8), (24, 4))
    Image.fromarray(numbers).save(path)

    truth = opened(root).truth(2)

    assert truth[0, :6].tolist() == [255, 0, 1, 2, 255, 0]
    assert truth.dtype == np.uint8


def test_palettes_hold_class_numbers(root):
    path = root / "annotations" / "training" / "00.png"
    plain = np.asarray(Image.open(path))
    palette = Image.fromarray(plain, "L").convert("P")
    palette.putdata(plain.ravel().tolist())
    palette.putpalette([200, 10, 10] * 256)
    before = opened(root).truth(0)
    palette.save(path)

    assert np.array_equal(opened(root).truth(0), before)


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:45])
    elif how == "coloured":
        Image.open(path).convert("RGB").save(path)
    elif how == "of another size":
        Image.open(path).resize((41, 30)).save(path)
    elif how == "of a picture on its side":
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    elif how == "unknown class":
        numbers = np.asarray(Image.open(path)).copy()
        numbers[3, 4] = 4
        Image.fromarray(numbers).save(path)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "expected its class map at .*00.png, found none"),
        ("cut", "cannot read the class map .*00.png"),
        ("coloured", "8-bit class numbers in .*00.png, got a PNG of mode RGB"),
        ("of another size", r"picture's size 40 x 30, .*00.png has 41 x 30"),
        ("of a picture on its side", r"picture's size 40 x 30, .*00.png has 30 x 40"),
        ("unknown class", "00.png has the class number 4, and there are 3 classes"),
    ],
)
def test_a_picture_with_a_bad_class_map_is_named_and_skipped(root, how, reason):
    damage(root / "annotations" / "training" / "00.png", how)
    pictures = opened(root)

    (batch,) = ordered_batches(pictures, 8)

    ((name, why),) = batch.skipped
    assert name == str(root / "images" / "training" / "00.png")
    assert re.search(reason, why)
    assert batch.indices == (1, 2, 3, 4)
    assert batch.tensor.shape == (4, 24, 32)


def test_training_takes_the_next_picture_for_a_bad_one(root):
    damage(root / "annotations" / "training" / "03.png", "missing")
    (root / "images" / "training" / "01.png").write_bytes(b"no picture")

    (batch,) = next(training_batches(opened(root, augment=CROPS), 5))

    assert len(batch.images) == 5
    assert set(batch.indices) == {0, 2, 4}
    assert {Path(name).name for name, _ in batch.skipped} == {"01.png", "03.png"}


def test_pictures_without_maps_have_no_target(root):
    images = root / "images"
    pictures = SceneParsing(images, None, LABELS, LETTERBOX, CROPS)

    (batch,) = next(training_batches(pictures, 4))

    assert batch.tensor.tolist() == [-1] * 4
    with pytest.raises(DataError, match="opened without class maps"):
        pictures.truth(0)


def test_nothing_is_read_before_it_is_asked_for(root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")

    assert len(opened(root)) == 5


def test_what_cannot_be_opened_is_refused(root, tmp_path):
    images, maps = root / "images" / "training", root / "annotations" / "training"
    with pytest.raises(DataError, match=r"expected a folder of pictures at .*absent"):
        SceneParsing(tmp_path / "absent", maps, LABELS, LETTERBOX)
    with pytest.raises(DataError, match=r"expected a folder of class maps at .*absent"):
        SceneParsing(images, tmp_path / "absent", LABELS, LETTERBOX)
    many = labels.inline([str(index) for index in range(255)])
    with pytest.raises(DataError, match="254 classes apart at most, got 255"):
        SceneParsing(images, maps, many, LETTERBOX)
