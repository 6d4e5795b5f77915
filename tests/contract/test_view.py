"""A place in the input of a network is the place in the picture that it was made of."""

import numpy as np
import pytest
from PIL import Image

from contract.preprocess import Preprocessing, fit
from contract.view import View

LETTERBOX = Preprocessing(160, 224, interpolation="bilinear", framing="letterbox")
CROP = Preprocessing(160, 224, 256, "bilinear")
SIZES_PX = [(640, 480), (333, 517), (1001, 97), (97, 1001), (224, 160), (31, 33), (300, 1)]


def box_seen(pixels: np.ndarray) -> np.ndarray:
    """Return the box of what is white in an input, to less than a pixel, 0 to 1 of its sides."""
    white = pixels[..., 0].astype(float)
    # The ground of a letterbox is grey.
    white[pixels[..., 0] != pixels[..., 1]] = 0
    sides = []
    for axis, length in ((0, white.shape[1]), (1, white.shape[0])):
        weight = white.sum(axis=axis) / white.sum(axis=axis).max()
        middle = (weight * (np.arange(length) + 0.5)).sum() / weight.sum()
        sides.append(((middle - weight.sum() / 2) / length, (middle + weight.sum() / 2) / length))
    (left, right), (top, bottom) = sides
    return np.array([[left, top, right, bottom]])


@pytest.mark.parametrize(
    ("size_px", "form"),
    [*((size, LETTERBOX) for size in SIZES_PX), *((size, CROP) for size in SIZES_PX[:-1])],
)
def test_a_box_in_the_picture_comes_back_from_the_input(size_px, form):
    view = View.of(size_px, form)
    left, top, right, bottom = view.place.box
    # Inside what a cut shows.
    inner = (
        round(left + 0.3 * (right - left)),
        round(top + 0.25 * (bottom - top)),
        round(left + 0.8 * (right - left)),
        round(top + 0.7 * (bottom - top)),
    )
    box = inner if size_px[1] > 1 else (inner[0], 0, inner[2], 1)
    image = Image.new("RGB", size_px)
    image.paste((255, 255, 255), box)

    found = view.boxes(box_seen(fit(image, form)))

    assert found[0] == pytest.approx(box, abs=1)


def test_boxes_are_clipped_to_the_picture():
    view = View.of((100, 50), Preprocessing(100, 100, framing="letterbox"))

    boxes = view.boxes(np.array([[-0.1, 0.1, 0.5, 0.9], [0.2, 0.6, 0.4, 0.8]]))

    assert boxes[0] == pytest.approx([-10, 10, 50, 90])
    clipped = view.clipped(boxes)
    assert clipped[0] == pytest.approx([0, 10, 50, 50])
    # In the empty part of the letterbox there is no picture.
    assert clipped[1, 3] <= clipped[1, 1]


@pytest.mark.parametrize("size_px", [*SIZES_PX, (1, 1), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("form", [LETTERBOX, CROP], ids=["letterbox", "crop"])
def test_each_line_of_the_picture_shows_the_nearest_line_of_the_input(size_px, form):
    view = View.of(size_px, form)
    left, top, right, bottom = view.place.box
    axes = zip(view.cells(), ((top, bottom), (left, right)), size_px[::-1],
               view.place.size_px[::-1], strict=True)  # fmt: skip
    for cells, (begin, end), length, lines in axes:
        expected = {
            pixel: min(int((pixel + 0.5 - begin) * lines / (end - begin)), lines - 1)
            for pixel in range(length)
            if begin <= pixel + 0.5 <= end
        }

        edges = cells.edges_px
        found = {
            pixel: int(line)
            for line, first, last in zip(
                cells.index, edges[:-1], edges[1:], strict=bool(len(edges))
            )
            for pixel in range(first, last)
        }

        assert found == expected
