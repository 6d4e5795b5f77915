"""Where the names of boxes stand on a picture: none covers another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.system import browsing

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Page  # isort: skip

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 640, 480
AREA = {"left": 0, "top": 0, "right": WIDTH, "bottom": HEIGHT}
Corners = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def page(repository: Path) -> Iterator[Page]:
    with (
        browsing.served(repository) as address,
        browsing.launched() as browser,
        browsing.opened(browser, address) as page,
    ):
        yield page


def placed(page: Page, boxes: list[Corners], long: float = 90, high: float = 18) -> list[Any]:
    """Return left, top, right and bottom of the name of each box, or None."""
    names = [
        {
            "box": dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
            "size": {"width": long, "height": high},
        }
        for box in boxes
    ]
    script = """async ([names, area]) => {
        const { placed } = await import("/assets/names.js");
        return placed(names, area).map((at) =>
            at && [at.x, at.y, at.x + at.width, at.y + at.height]);
    }"""
    found: list[Any] = page.evaluate(script, [names, AREA])
    return found


def cover(one: Corners, other: Corners) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_a_name_stands_above_its_box(page: Page):
    assert placed(page, [(100, 100, 300, 300)]) == [[100, 82, 190, 100]]


def test_at_the_upper_edge_it_stands_in_the_box(page: Page):
    assert placed(page, [(100, 5, 300, 300)]) == [[100, 5, 190, 23]]


def test_at_the_right_edge_it_stays_within_the_picture(page: Page):
    assert placed(page, [(600, 100, 640, 300)]) == [[550, 82, 640, 100]]


def test_two_boxes_in_one_place_have_both_names_beside_each_other(page: Page):
    first, second = placed(page, [(100, 100, 400, 300), (101, 101, 401, 301)])

    assert first == [100, 82, 190, 100]
    assert not cover(first, second)
    # At its own box still: at the right end of its upper edge.
    assert second == [311, 83, 401, 101]


@pytest.mark.parametrize("seed", range(5))
def test_no_name_covers_another_or_leaves_the_picture_however_many_there_are(page: Page, seed: int):
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, 1, (100, 2, 2)) * (WIDTH, HEIGHT)
    boxes: list[Corners] = [
        (*map(float, pair.min(0)), *map(float, pair.max(0))) for pair in corners
    ]

    found = placed(page, boxes)

    shown = [name for name in found if name]
    assert found[0]
    # The places of a hundred boxes have room for more than a few.
    assert len(shown) > 50
    assert not any(cover(one, other) for one, other in itertools.combinations(shown, 2))
    for left, top, right, bottom in shown:
        assert min(left, top) >= 0
        assert right <= WIDTH
        assert bottom <= HEIGHT


def test_where_there_is_no_room_a_name_is_left_to_the_list(page: Page):
    found = placed(page, [(100, 100, 130, 120)] * 12)

    assert found[0]
    assert None in found
