"""What was detected and segmented, as the page draws it over the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests import finding
from tests.conftest import encoded
from tests.system import browsing
from tests.system.browsing import drop, shown_width

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Page, expect  # isort: skip

pytestmark = pytest.mark.browser
pytest_plugins = ["tests.system.pages"]

THINGS: dict[str, finding.Box] = {"red": (60, 60, 260, 180), "green": (300, 150, 560, 420)}
SCENE = encoded(finding.scene((640, 480), THINGS))
# Where only the overlay is opaque, its own colours show.
Rgba = tuple[int, int, int, int]
NOTHING: Rgba = (0, 0, 0, 0)


@pytest.fixture(scope="module")
def address(scene_repository: Path) -> Iterator[str]:
    with browsing.served(scene_repository) as address:
        yield address


def drawn(page: Page, x: float, y: float, size_px: tuple[int, int] = (640, 480)) -> Rgba:
    """Return what is drawn over a place of the picture."""
    script = """([x, y, width, height]) => {
        const canvas = document.querySelector("#overlay");
        if (canvas.hidden) return [0, 0, 0, 0];
        const scale = Math.min(canvas.width / width, canvas.height / height);
        const left = (canvas.width - scale * width) / 2;
        const top = (canvas.height - scale * height) / 2;
        const context = canvas.getContext("2d");
        return [...context.getImageData(left + scale * x, top + scale * y, 1, 1).data];
    }"""
    found: Rgba = tuple(page.evaluate(script, [x, y, *size_px]))
    return found


def swatch(page: Page, row: int) -> tuple[int, ...]:
    """Return the colour of a row."""
    text = page.locator("#labels .swatch").nth(row).evaluate("it => it.style.background")
    return tuple(map(int, re.findall(r"\d+", text)))


def show(page: Page, model: str, data: bytes = SCENE) -> None:
    page.select_option("#model", model)
    drop(page, data, "scene.png", "image/png")
    expect(page.locator("#status")).to_contain_text(f"{model}, version 1")
    shown_width(page)


def test_models_are_listed_by_what_they_do(page: Page):
    titles = page.locator("#model optgroup").evaluate_all("them => them.map((it) => it.label)")

    assert titles == ["Classify", "Detect", "Segment"]
    expect(page.locator("#model")).to_have_value("colours")
    expect(page.locator("#model optgroup").nth(1).locator("option")).to_have_count(3)


def test_things_are_listed_and_lie_under_their_boxes_and_masks(page: Page):
    show(page, "shapes")

    expect(page.locator("#status")).to_contain_text("on 640 \u00d7 480 pixels: 2 things")
    expect(page.locator("#labels .name")).to_have_text(["red", "green"])
    expect(page.locator("#labels .score")).to_have_text(["90.0 %", "60.0 %"])
    expect(page.locator("#labels .choice").first).to_contain_text("200 \u00d7 120 pixels at 60, 60")
    for row, (left, top, right, bottom) in enumerate(THINGS.values()):
        colour = swatch(page, row)
        # The left edge of the box, and the mask within it.
        assert drawn(page, left, (top + bottom) / 2)[:3] == pytest.approx(colour, abs=12)
        middle = drawn(page, (left + right) / 2, (top + bottom) / 2)
        assert middle[:3] == pytest.approx(colour, abs=12)
        assert 60 < middle[3] < 200
        # A corner of the box is outside the ellipse, and so of its mask.
        assert drawn(page, left + 12, bottom - 12)[3] == 0
    assert drawn(page, 20, 460) == NOTHING


def test_a_model_without_masks_draws_its_boxes(page: Page):
    show(page, "shapes-boxes")

    assert drawn(page, 160, 120) == NOTHING
    assert drawn(page, 60, 120)[3] == 255


def test_the_least_score_is_chosen_with_the_keyboard_without_asking_again(page: Page):
    show(page, "shapes")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))

    page.locator("#min-score").focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")

    expect(page.locator("#min-score-shown")).to_have_text("65.0 %")
    expect(page.locator("#labels .name")).to_have_text(["red"])
    expect(page.locator("#status")).to_contain_text("1 thing")
    assert drawn(page, 430, 285) == NOTHING
    assert sent == []


def test_a_row_is_chosen_with_the_keyboard_and_shows_its_place_alone(page: Page):
    show(page, "shapes")
    before = drawn(page, 160, 120)[3]

    page.locator("#labels .choice").nth(1).focus()
    page.keyboard.press("Space")

    expect(page.locator("#labels .choice").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#labels .choice").nth(0)).to_have_attribute("aria-pressed", "false")
    assert drawn(page, 160, 120)[3] < before / 2
    page.keyboard.press("Space")
    assert drawn(page, 160, 120)[3] == before


def test_a_map_has_the_colours_of_its_legend_and_the_areas(page: Page):
    show(page, "areas")

    expect(page.locator("#status")).to_contain_text("2 classes")
    expect(page.locator("#labels .name")).to_have_text(["red", "green"])
    shares = [float(text.split()[0]) for text in page.locator("#labels .score").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.11)
    expect(page.locator("#labels .choice").nth(1)).to_contain_text(re.compile(r"[\d,]+ pixels"))
    # On black the first class is named.
    assert drawn(page, 20, 20)[:3] == pytest.approx(swatch(page, 0), abs=6)
    assert drawn(page, 430, 285)[:3] == pytest.approx(swatch(page, 1), abs=6)
    assert swatch(page, 0) != swatch(page, 1)


def test_what_a_map_does_not_cover_stays_as_it_is(page: Page):
    show(page, "areas-cut")

    expect(page.locator("#status")).to_contain_text(re.compile(r"\d\d\.\d\s% not seen"))
    assert drawn(page, 5, 5) == NOTHING
    assert drawn(page, 320, 240)[3] > 0


def test_classifying_again_takes_the_drawing_away(page: Page):
    show(page, "areas")
    assert drawn(page, 320, 240)[3] > 0

    page.select_option("#model", "colours")

    expect(page.locator("#status")).to_contain_text("colours, version 1")
    expect(page.locator("#overlay")).to_be_hidden()
    expect(page.locator("#least")).to_be_hidden()


def test_a_photo_on_its_side_has_its_boxes_where_it_is_shown(page: Page):
    stored = finding.scene((480, 640), {"blue": (100, 100, 200, 400)})
    stored.paste((0, 255, 0), (300, 500, 400, 600))
    exif = Image.Exif()
    exif[0x0112] = 6

    show(page, "shapes", encoded(stored, exif=exif))

    # Turned clockwise: x becomes 640 - y, y becomes x.
    first = page.locator("#labels .choice").first
    expect(first).to_contain_text("100 \u00d7 100 pixels at 40, 300")
    colour = swatch(page, 0)
    assert drawn(page, 90, 350)[:3] == pytest.approx(colour, abs=12)


def test_a_window_of_another_width_moves_the_drawing_with_the_picture(page: Page):
    show(page, "shapes")

    page.set_viewport_size({"width": 480, "height": 800})
    page.wait_for_function(
        "() => { const [c, p] = ['overlay', 'preview'].map((id) => document.getElementById(id));"
        " return c.width === Math.round(p.clientWidth * devicePixelRatio); }"
    )

    assert drawn(page, 160, 120)[:3] == pytest.approx(swatch(page, 0), abs=12)
    canvas, picture = (page.locator(name).bounding_box() for name in ("#overlay", "#preview"))
    assert canvas == picture


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_for_screen_readers(page: Page, scheme):
    page.emulate_media(color_scheme=scheme)
    show(page, "shapes")

    expect(page.get_by_role("button", name=re.compile(r"red 90\.0\s%"))).to_be_visible()
    expect(page.get_by_role("slider", name=re.compile("Least score"))).to_be_visible()
    expect(page.get_by_role("combobox", name="Model")).to_be_visible()
    expect(page.get_by_role("img", name="The picture scene.png")).to_be_visible()
