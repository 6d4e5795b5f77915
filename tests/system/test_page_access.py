"""The page for everybody: on a phone, by keyboard, by screen reader, in light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import finding
from tests.conftest import encoded
from tests.system import browsing
from tests.system.browsing import contrast, drop_all, over, rgb

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Page, expect  # isort: skip

pytestmark = pytest.mark.browser
pytest_plugins = ["tests.system.pages"]

TOUCH_PX = 44
TEXT, PART = 4.5, 3.0
CONTROLS = "a[href], button, select, input, [role=option]"
SCENE = encoded(
    finding.scene((640, 480), {"red": (60, 60, 260, 180), "green": (300, 150, 560, 420)})
)
COMPARED = {"detect": ("shapes", "shapes-cut"), "segment": ("areas", "areas-cut")}
STATES = ["empty", "classify", "several", "refused", "detect", "segment", "key"]


@pytest.fixture(scope="module")
def address(scene_repository: Path) -> Iterator[str]:
    with browsing.served(scene_repository) as address:
        yield address


def bring(page: Page, state: str) -> None:
    """Bring the page into one of the states in which it is looked at."""
    if state == "key":
        page.locator("#key").evaluate("it => { it.hidden = false; it.click(); }")
    elif state == "refused":
        drop_all(page, {"no picture.png": b"nothing"})
        expect(page.locator("#problem")).to_be_visible()
    elif state in COMPARED:
        for select, name in zip(("#model", "#compare"), COMPARED[state], strict=True):
            page.select_option(select, name)
        give(page, several=state == "detect")
        expect(page.locator("#status-b")).to_contain_text("version 1")
        page.locator("#labels .choice").first.click()
    elif state != "empty":
        give(page, several=state == "several")


def give(page: Page, several: bool) -> None:
    files = {"a picture with quite a long name.png": SCENE}
    if several:
        files |= {f"{i}.png": SCENE for i in range(12)} | {"no picture.png": b"nothing"}
    drop_all(page, files)
    expect(page.locator("#status")).to_contain_text("version 1")
    if several:
        done = "13 of 14 pictures answered, 1 failed"
        expect(page.locator("#progress")).to_have_text(done, timeout=20_000)


@pytest.mark.parametrize("width", [320, 360])
@pytest.mark.parametrize("state", STATES)
def test_a_phone_shows_all_without_scrolling_sideways_and_large_enough_to_touch(
    page: Page, state: str, width: int
):
    page.set_viewport_size({"width": width, "height": 740})
    bring(page, state)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    controls = page.locator(CONTROLS).locator("visible=true")
    assert controls.count() >= 4
    for control in controls.all():
        box = control.bounding_box()
        assert box is not None
        if box["x"] + box["width"] <= 0:  # the link that skips, until it has the focus
            continue
        name = control.evaluate("it => it.id || it.textContent")
        assert min(box["width"], box["height"]) >= TOUCH_PX, name


# Each visible text with its colour and all grounds below it, the lowest first.
PAINTED = """() => {
    const grounds = (it) => {
        const own = getComputedStyle(it).backgroundColor;
        return it.parentElement ? [...grounds(it.parentElement), own] : [own];
    };
    const shown = [...document.querySelectorAll("body *")].filter((it) =>
        it.checkVisibility() && !it.disabled && !it.closest("[disabled], [aria-hidden=true] svg"));
    return shown
        .filter((it) => [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .filter((it) => it.tagName !== "OPTION" && it.tagName !== "NOSCRIPT")
        .map((it) => [it.textContent.trim().slice(0, 40), getComputedStyle(it).color, grounds(it)]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_every_text_can_be_read_on_its_ground(page: Page, state: str, scheme: Any):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    bring(page, state)

    painted = page.evaluate(PAINTED)

    assert len(painted) > 8
    for text, colour, grounds in painted:
        ground = over(grounds)
        ratio = contrast(over([f"rgb({', '.join(map(str, ground))})", colour]), ground)
        assert ratio >= TEXT, (text, colour, grounds, ratio)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edges_of_controls_can_be_told_from_the_panel(page: Page, scheme: Any):
    page.emulate_media(color_scheme=scheme)
    bring(page, "several")
    panel = over(
        page.locator(".panel").first.evaluate(
            "it => [document.body, it].map((at) => getComputedStyle(at).backgroundColor)"
        )
    )

    for control in ("#model", "#compare", "#add", "#strip li"):
        style = "it => getComputedStyle(it).borderTopColor"
        edge = page.locator(control).first.evaluate(style)
        assert contrast(rgb(edge), panel) >= PART, control
    ring = page.locator("#strip [aria-selected=true]").evaluate(
        "it => getComputedStyle(it).outlineColor"
    )
    assert contrast(rgb(ring), panel) >= PART


def test_names_on_boxes_can_be_read_whatever_the_colour_of_the_class(page: Page):
    colours = page.evaluate(
        """async () => {
            const { colour, ink } = await import("/assets/colours.js");
            return Array.from({ length: 256 }, (_, i) => [colour(i), ink(colour(i))]);
        }"""
    )

    assert {ink for _, ink in colours} == {"#000", "#fff"}
    for colour, ink in colours:
        assert contrast(colour, [0.0] * 3 if ink == "#000" else [255.0] * 3) >= TEXT


# Where the focus is, and whether it is seen: around it, or around the label of the file.
FOCUSED = """() => {
    const it = document.activeElement;
    const seen = it.id === "file" ? document.querySelector(".drop label") : it;
    const { outlineStyle, outlineWidth } = getComputedStyle(seen);
    const inView = it.getBoundingClientRect().right > 0;
    return [it.id || it.className || it.textContent,
            inView && outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
}"""


def walk(page: Page, steps: int) -> list[str]:
    """Press Tab and return what has the focus each time, which must be seen."""
    walked = []
    for _ in range(steps):
        page.keyboard.press("Tab")
        name, is_seen = page.evaluate(FOCUSED)
        assert is_seen, name
        walked.append(name)
    return walked


def test_the_keyboard_reaches_everything_in_reading_order_and_shows_where_it_is(page: Page):
    page.select_option("#model", "shapes")
    chosen = ["model", "compare", "min-score"]
    assert walk(page, 7) == ["skip", "API", "Metrics", *chosen, "file"]
    bring(page, "several")
    page.locator(".skip").focus()

    assert walk(page, 9)[2:] == [*chosen, "add", "remove", "clear", "thumbnail"]


def test_the_keyboard_goes_from_the_picture_to_what_it_shows_in_both_columns(page: Page):
    bring(page, "detect")
    page.locator("#strip [aria-selected=true]").focus()

    assert walk(page, 4) == ["choice"] * 4
    assert page.locator("#labels-b .choice").nth(1).evaluate("it => it === document.activeElement")


def test_a_link_skips_to_what_was_found(page: Page):
    bring(page, "detect")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")

    page.keyboard.press("Tab")

    expect(page.locator("#labels .choice").first).to_be_focused()


def test_a_button_that_goes_away_hands_the_focus_on(page: Page):
    drop_all(page, {"a.png": SCENE, "b.png": SCENE})
    expect(page.locator("#progress")).to_have_text("2 of 2 pictures answered")
    page.locator("#remove").focus()

    page.keyboard.press("Enter")

    expect(page.locator("#remove")).to_be_hidden()
    expect(page.locator("#add")).to_be_focused()


def test_after_a_picture_was_chosen_by_keyboard_the_focus_stays_on_the_page(page: Page):
    page.locator("#file").focus()
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": SCENE})

    expect(page.locator("#add")).to_be_focused()


NAMED = {"button", "link", "combobox", "slider", "option", "listbox", "image", "img", "textbox",
         "region", "navigation", "table", "dialog", "alertdialog"}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_whatever_can_be_used_or_seen_has_a_name_for_screen_readers(page: Page, state: str):
    bring(page, state)

    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    told = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in NAMED
    ]

    # Behind a dialog nothing is told.
    assert len(told) >= (3 if state == "key" else 5)
    assert [role for role, name in told if not name.strip()] == []


@pytest.mark.parametrize("state", ["empty", "several", "detect", "segment"])
def test_no_two_parts_of_the_page_share_an_id_and_every_reference_leads_somewhere(
    page: Page, state: str
):
    bring(page, state)

    ids = page.locator("[id]").evaluate_all("them => them.map((it) => it.id)")
    assert len(ids) == len(set(ids))
    references = page.evaluate(
        """() => [...document.querySelectorAll("*")].flatMap((it) =>
            ["for", "aria-labelledby", "aria-describedby"].map((name) => it.getAttribute(name)))
            .filter(Boolean)"""
    )
    assert references
    assert {one for each in references for one in each.split()} <= set(ids)


def test_the_end_of_many_pictures_is_announced_once(page: Page):
    bring(page, "several")

    expect(page.get_by_role("status").filter(has_text="All 14 pictures")).to_have_text(
        "All 14 pictures are through: 13 answered, 1 failed."
    )


def test_what_is_found_and_whether_two_agree_is_announced(page: Page):
    bring(page, "detect")

    live = page.get_by_role("status")
    expect(live.filter(has_text="shapes, version 1, on")).to_have_count(1)
    expect(live.filter(has_text=re.compile("They (agree|differ)"))).to_have_count(1)
    page.get_by_role("option", name="no picture.png").click()
    expect(page.get_by_role("alert").first).to_contain_text("JPEG, PNG or WebP")


@pytest.mark.parametrize(("motion", "moving"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_who_wants_no_motion(page: Page, motion: Any, moving: bool):
    page.emulate_media(reduced_motion=motion)
    bring(page, "several")
    page.locator("#strip li").first.evaluate("it => { it.dataset.state = 'asking'; }")

    names = page.locator("*").evaluate_all(
        "them => them.flatMap((it) => [getComputedStyle(it).animationName,"
        " parseFloat(getComputedStyle(it).transitionDuration) ? 'transition' : 'none'])"
    )

    assert (set(names) != {"none"}) == moving
