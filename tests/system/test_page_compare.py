"""Two models beside each other on the page: whether they agree, and what belongs together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from compress.plan.repository import publish
from contract import labels
from tests import bundles, finding
from tests.conftest import encoded
from tests.system import browsing
from tests.system.browsing import drop, in_flight

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Browser, Page, expect  # isort: skip

pytestmark = pytest.mark.browser
pytest_plugins = ["tests.system.pages"]

THINGS: dict[str, finding.Box] = {"red": (60, 60, 260, 180), "green": (300, 150, 560, 420)}
SCENE = encoded(finding.scene((640, 480), THINGS))
BLUE = encoded(Image.new("RGB", (40, 30), "blue"))
RED = encoded(Image.new("RGB", (40, 30), "red"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("compared")
    repository = finding.write_repository(folder)
    # The same networks, whose cards call red green and green red.
    twisted = {
        "colours-twisted": (bundles.colour_graph(), bundles.colour_card(), ("black",)),
        "shapes-twisted": (finding.detector(), finding.card("detect"), ()),
        "areas-twisted": (finding.segmenter(), finding.card("segment"), ()),
    }
    for name, (graph, card, more) in twisted.items():
        other = replace(card, labels=labels.inline(["green", "red", "blue", *more]))
        publish(bundles.write_bundle(folder / "twisted" / name, graph, other), repository, name)
    with browsing.served(repository) as address:
        yield address


def compare(page: Page, model: str, other: str, data: bytes = SCENE) -> None:
    page.select_option("#model", model)
    page.select_option("#compare", other)
    drop(page, data, "scene.png", "image/png")
    expect(page.locator("#status")).to_contain_text(f"{model}, version 1")
    expect(page.locator("#status-b")).to_contain_text(f"{other}, version 1")


def agreement(page: Page) -> str:
    return page.locator("#agreement").inner_text().replace("\u00a0", " ")


def opaque(page: Page, canvas: str, x: float, y: float) -> int:
    """Return how opaque the drawing over a place of the 640 x 480 picture is, 0 to 255."""
    script = """(canvas, [x, y]) => {
        const scale = canvas.width / 640;
        return canvas.getContext("2d").getImageData(scale * x, scale * y, 1, 1).data[3];
    }"""
    return int(page.locator(canvas).evaluate(script, [x, y]))


def test_nothing_is_compared_until_another_model_of_the_task_is_chosen(page: Page):
    drop(page, BLUE, "b.png", "image/png")
    expect(page.locator("#status")).to_contain_text("colours, version 1")

    for hidden in ("#comparison", "#both", "#picture-b", "#side-b", "#clock-b"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.locator("#compare option")).to_have_text(["nothing", "colours-twisted"])
    page.select_option("#model", "areas")
    expect(page.locator("#compare option")).to_have_text(["nothing", "areas-cut", "areas-twisted"])
    expect(page.locator("#compare")).to_have_value("")


def test_two_classifiers_that_say_the_same_agree(page: Page):
    compare(page, "colours", "colours-twisted", BLUE)

    scores = [
        page.locator(f"{rows} .score").first.inner_text() for rows in ("#labels", "#labels-b")
    ]
    assert agreement(page).startswith(
        f"They agree: both say blue ({scores[0]} and {scores[1]}).".replace("\u00a0", " ")
    )
    assert "4 of the first 4 classes are in both lists" in agreement(page)


def test_two_classifiers_that_differ_are_named_with_what_each_says(page: Page):
    compare(page, "colours", "colours-twisted", RED)

    assert re.match(
        r"They differ: colours says red \(9\d\.\d %\), colours-twisted says green \(9",
        agreement(page),
    )
    page.locator("#labels .choice").first.click()
    # Red is what the other names second at the earliest, and there it is highlighted.
    pressed = page.locator("#labels-b [aria-pressed=true] .name")
    expect(pressed).to_have_text("red")


def test_boxes_that_both_find_are_matched_and_one_that_lies_outside_is_not(page: Page):
    things: dict[str, finding.Box] = {**THINGS, "blue": (0, 0, 50, 50)}
    scene = encoded(finding.scene((640, 480), things))
    # It sees 80 to 560 across and 60 to 420 down.
    compare(page, "shapes", "shapes-cut", scene)
    assert "They agree: 2 boxes of the same class match at an IoU of 0.5" in agreement(page)

    page.locator("#min-score").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")

    expect(page.locator("#agreement")).to_contain_text("1 only in shapes, 0 only in shapes-cut")
    expect(page.locator("#agreement")).to_contain_text("They differ: 2 boxes")
    expect(page.locator("#labels .choice").nth(2)).to_contain_text("only here")
    expect(page.locator("#labels-b .choice")).to_have_count(2)


def test_boxes_of_another_class_do_not_match(page: Page):
    compare(page, "shapes", "shapes-twisted")

    assert agreement(page).startswith("They differ: 0 boxes of the same class match")
    assert "; 2 only in shapes, 2 only in shapes-twisted." in agreement(page)


@pytest.mark.parametrize(
    ("heights", "others", "pairs"),
    [
        # The first takes what it overlaps most, the second what is left: 60 of 90.
        ((100, 90), (60, 95), [[0, 1], [1, 0]]),
        ((100, 90), (90,), [[0, 0]]),
        ((100,), (50,), [[0, 0]]),
        ((100,), (49,), []),
    ],
)
def test_a_box_is_matched_once_with_the_free_one_that_it_overlaps_most(
    page: Page, heights: tuple[int, ...], others: tuple[int, ...], pairs: list[list[int]]
):
    boxes = [
        [
            {"id": i, "label": "red", "box": {"left": 0, "top": 0, "right": 100, "bottom": height}}
            for i, height in enumerate(of_one)
        ]
        for of_one in (heights, others)
    ]

    found = page.evaluate(
        """async ([a, b]) => {
            const { matches } = await import("/assets/agreement.js");
            return matches(a, b).map(([one, other]) => [one, other]);
        }""",
        boxes,
    )

    assert found == pairs


def test_a_chosen_box_is_shown_alone_in_both_pictures_until_escape(page: Page):
    compare(page, "shapes", "shapes-boxes")
    red, green = (60, 120), (300, 285)
    assert [opaque(page, "#overlay-b", *at) for at in (red, green)] == [255, 255]

    page.locator("#labels .choice").nth(1).focus()
    page.keyboard.press("Enter")

    expect(page.locator("#labels-b .choice").nth(1)).to_have_attribute("aria-pressed", "true")
    for canvas in ("#overlay", "#overlay-b"):
        assert opaque(page, canvas, *green) == 255
        assert opaque(page, canvas, *red) < 60
    page.keyboard.press("Escape")
    expect(page.locator("[aria-pressed=true]")).to_have_count(0)
    assert opaque(page, "#overlay-b", *red) == 255


def test_a_box_that_the_other_does_not_have_dims_all_of_the_others(page: Page):
    compare(page, "shapes", "shapes-twisted")

    page.locator("#labels-b .choice").nth(0).click()

    expect(page.locator("#labels .choice[aria-pressed=true]")).to_have_count(0)
    assert opaque(page, "#overlay", 60, 120) < 60
    assert opaque(page, "#overlay", 300, 285) < 60
    assert opaque(page, "#overlay-b", 60, 120) == 255


def test_maps_are_compared_pixel_by_pixel_by_the_names_of_their_classes(page: Page):
    quarter: dict[str, finding.Box] = {"blue": (0, 0, 320, 240)}
    scene = encoded(finding.scene((640, 480), quarter, "rectangle"))
    compare(page, "areas", "areas-twisted", scene)

    # Both call a quarter blue; the rest is red to one and green to the other.
    share = float(re.findall(r"[\d.]+(?= % of the pixels)", agreement(page))[0])
    assert share == pytest.approx(25, abs=1)
    page.locator("#labels .choice", has_text="blue").click()
    expect(page.locator("#labels-b [aria-pressed=true] .name")).to_have_text("blue")


def test_maps_that_are_equal_where_both_saw_something_agree(page: Page):
    compare(page, "areas", "areas-cut")

    share = float(re.findall(r"[\d.]+(?= % of the pixels)", agreement(page))[0])
    # The two scale the picture differently, so the edges of things differ.
    assert share > 98


def test_both_times_stand_on_one_scale_and_both_cards_in_one_table(page: Page):
    compare(page, "shapes", "shapes-boxes")

    widths = [float(page.locator(bar).evaluate("it => parseFloat(it.style.width)"))
              for bar in ("#bar", "#bar-b")]  # fmt: skip
    totals = [float(page.locator(total).inner_text().split("\u00a0")[0])
              for total in ("#total", "#total-b")]  # fmt: skip
    assert max(widths) == 100
    assert widths[0] / widths[1] == pytest.approx(totals[0] / totals[1], rel=0.02)
    rows = page.locator("#cards tr").all_inner_texts()
    assert rows[0].split() == ["shapes", "shapes-boxes"]
    said = "\n".join(rows).replace("\u00a0", " ")
    for words in (
        "FLOAT32",
        "dense",
        "50.0 % mask AP on ten painted scenes",
        "160 \u00d7 120 pixels",
    ):
        assert said.count(words) >= 2
    assert re.search(r"File\s+\d+\.\d MB\s+\d+\.\d MB", said)


def test_two_models_are_asked_one_after_the_other_so_that_their_times_are_their_own(page: Page):
    counts = in_flight(page)

    compare(page, "shapes", "shapes-boxes")

    assert counts == [1, 1]


def test_the_address_holds_the_choice_and_gives_it_to_whoever_opens_it(
    page: Page, browser: Browser, address: str
):
    page.select_option("#model", "shapes")
    page.select_option("#compare", "shapes-cut")
    assert page.url == f"{address}/?model=shapes&compare=shapes-cut"

    with browsing.opened(browser, page.url) as other:
        expect(other.locator("#model")).to_have_value("shapes")
        expect(other.locator("#compare")).to_have_value("shapes-cut")
        expect(other.locator("#comparison")).to_be_visible()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?model=nothing-such", "names nothing-such,"),
        ("?model=shapes&compare=colours", "names colours,"),
        ("?model=shapes&compare=<img src=x>", "names <img src=x>,"),
    ],
)
def test_an_address_that_names_what_is_not_there_says_so(
    browser: Browser, address: str, query: str, said: Any
):
    with browsing.opened(browser, f"{address}/{query}") as page:
        expect(page.locator("#status")).to_contain_text(said)
        expect(page.locator("#model")).to_be_enabled()
        expect(page.locator("#compare")).to_have_value("")


def test_a_model_that_fails_leaves_the_other_ones_answer(page: Page):
    page.route("**/v1/detect?model=shapes-boxes*", lambda route: route.abort())
    page.select_option("#model", "shapes")
    page.select_option("#compare", "shapes-boxes")

    drop(page, SCENE, "scene.png", "image/png")

    expect(page.locator("#problem-b")).to_contain_text("could not be reached")
    expect(page.locator("#status")).to_contain_text("2 things")
    expect(page.locator("#clock-b")).to_be_hidden()
    expect(page.locator("#clock")).to_be_visible()
