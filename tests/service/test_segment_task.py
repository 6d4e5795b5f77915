import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from contract import labels
from contract.letterbox import scaled_size
from contract.preprocess import Preprocessing
from contract.view import UNSEEN, View
from service.errors import Code, GatewayError, ModelError
from service.tasks import segment
from service.tasks.segment import Options, Segmentation
from service.tasks.task import Asked
from tests.service.test_contours import filled, without_holes

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = labels.inline(["sky", "sea", "land", "ship"])
LETTERBOX = Preprocessing(48, 64, framing="letterbox")
CROP = Preprocessing(48, 64, 64)
SIZES_PX = [(640, 480), (333, 517), (201, 17), (17, 201), (64, 48), (31, 33), (90, 1), (1, 90)]


def smooth_map(seed: int = 0) -> np.ndarray:
    """Return a map of four classes in patches, some of one pixel."""
    random = np.random.default_rng(seed)
    patches = np.kron(random.integers(0, 4, (6, 8)), np.ones((8, 8), int))
    dots = random.random(patches.shape) < 0.02
    return np.where(dots, 3, patches).astype(np.uint8)


def predict(
    class_map: np.ndarray, size_px: tuple[int, int], form: Preprocessing = LETTERBOX, **options: Any
) -> Segmentation:
    asked = Asked(NAMES, View.of(size_px, form), Options(**options))
    return segment.predict({"class_map": class_map[None]}, asked)


def map_of(found: Segmentation) -> np.ndarray:
    assert found.png is not None
    with Image.open(io.BytesIO(found.png)) as image:
        assert image.mode == "L"
        return np.array(image)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_the_map_of_a_letterboxed_picture_is_its_nearest_lookup(size_px: tuple[int, int]):
    class_map = smooth_map()
    scaled_width, scaled_height = scaled_size(size_px, LETTERBOX)
    width, height = size_px
    # In whole numbers, because some centres fall exactly between two of the input.
    expected = [
        [
            class_map[(2 * y + 1) * scaled_height // (2 * height)][
                (2 * x + 1) * scaled_width // (2 * width)
            ]
            for x in range(width)
        ]
        for y in range(height)
    ]

    np.testing.assert_array_equal(map_of(predict(class_map, size_px)), expected)


@pytest.mark.parametrize("size_px", [(640, 480), (333, 517), (201, 170)])
def test_of_a_cut_only_what_was_seen_has_a_class(size_px: tuple[int, int]):
    class_map = smooth_map()
    view = View.of(size_px, CROP)
    left, top, right, bottom = view.place.box

    result = predict(class_map, size_px, CROP)
    found = map_of(result)

    for y in range(0, size_px[1], 7):
        for x in range(0, size_px[0], 5):
            u = (x + 0.5 - left) / (right - left) * 64
            v = (y + 0.5 - top) / (bottom - top) * 48
            inside = 0 <= u < 64 and 0 <= v < 48
            assert found[y, x] == (class_map[int(v), int(u)] if inside else UNSEEN), (x, y)
    assert result.unseen_px == (found == UNSEEN).sum() > 0


@pytest.mark.parametrize("size_px", [*SIZES_PX, (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("form", [LETTERBOX, CROP], ids=["letterbox", "crop"])
def test_the_areas_add_up_to_the_picture(size_px: tuple[int, int], form: Preprocessing):
    result = predict(smooth_map(), size_px, form)

    found = map_of(result)
    assert found.shape == size_px[::-1]
    counts = np.bincount(found.ravel(), minlength=256)
    assert {c.index: c.area_px for c in result.classes} == {
        int(i): counts[i] for i in np.flatnonzero(counts[:UNSEEN])
    }
    total = size_px[0] * size_px[1]
    assert sum(c.area_px for c in result.classes) + result.unseen_px == total
    assert [c.share for c in result.classes] == [c.area_px / total for c in result.classes]
    assert form is CROP or result.unseen_px == 0


def test_the_largest_class_comes_first_with_its_name():
    class_map = np.zeros((48, 64), np.uint8)
    class_map[:30] = 3
    class_map[47, 63] = 1

    result = predict(class_map, (64, 48))

    assert [(c.label, c.label_id, c.area_px) for c in result.classes] == [
        ("ship", "ship", 30 * 64),
        ("sky", "sky", 18 * 64 - 1),
        ("sea", "sea", 1),
    ]


@pytest.mark.parametrize("size_px", SIZES_PX)
@pytest.mark.parametrize("form", [LETTERBOX, CROP], ids=["letterbox", "crop"])
def test_run_lengths_and_polygons_say_what_the_map_says(
    size_px: tuple[int, int], form: Preprocessing
):
    whole = map_of(predict(smooth_map(), size_px, form))
    with_runs = predict(smooth_map(), size_px, form, format="rle")
    with_polygons = predict(smooth_map(), size_px, form, format="polygons")

    assert with_runs.png is with_polygons.png is None
    for runs, outlined in zip(with_runs.classes, with_polygons.classes, strict=True):
        mask = whole == runs.index
        assert runs.rle is not None
        assert runs.rle.size == mask.shape
        decoded = coco.decode({"size": list(mask.shape), "counts": runs.rle.counts.encode()})
        np.testing.assert_array_equal(decoded, mask)
        assert outlined.index == runs.index
        assert outlined.polygons is not None
        np.testing.assert_array_equal(filled(outlined.polygons, mask.shape), without_holes(mask))


@pytest.mark.parametrize("value", [4, 254, 255])
def test_a_class_without_a_label_is_an_internal_error(value: int):
    class_map = smooth_map()
    class_map[5, 5] = value

    with pytest.raises(GatewayError, match=f"the class {value}, and there are 4") as caught:
        predict(class_map, (64, 48))

    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"scores": ("uint8", (-1, 48, 64))},
        {"class_map": ("int64", (-1, 48, 64))},
        {"class_map": ("uint8", (-1, 1, 48, 64))},
    ],
)
def test_outputs_of_no_segmenter_are_refused(outputs: dict):
    with pytest.raises(ModelError, match="4 labels to segment"):
        segment.require_outputs(outputs, NAMES)


def test_more_labels_than_a_map_can_name_are_refused():
    outputs = {"class_map": ("uint8", (-1, 48, 64))}
    segment.require_outputs(outputs, labels.inline([str(i) for i in range(255)]))

    with pytest.raises(ModelError, match="at most 255"):
        segment.require_outputs(outputs, labels.inline([str(i) for i in range(256)]))
