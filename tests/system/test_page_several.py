"""Many pictures on the page: asked about in turn, waited for, refused one by one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import encoded
from tests.system import browsing
from tests.system.browsing import drop_all, in_flight

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Browser, Page, Route, expect  # isort: skip

pytestmark = pytest.mark.browser
pytest_plugins = ["tests.system.pages"]

COLOURS = ("red", "lime", "blue")
NAMES = {"red": "red", "lime": "green", "blue": "blue"}


@pytest.fixture(scope="module")
def address(repository: Path) -> Iterator[str]:
    with browsing.served(repository) as address:
        yield address


def square(colour: str) -> bytes:
    return encoded(Image.new("RGB", (40, 30), colour))


THREE = {f"{colour}.png": square(colour) for colour in COLOURS}


def states(page: Page) -> list[str]:
    found: list[str] = page.locator("#strip [role=option]").evaluate_all(
        "them => them.map((it) => it.dataset.state)"
    )
    return found


def first_name(page: Page) -> str:
    return page.locator("#labels li .name").first.inner_text()


def problem(status: int, code: str, detail: str, **headers: str) -> dict[str, object]:
    """Return what a service answers that refuses."""
    body = {"code": code, "title": f"Title of {code}", "detail": detail}
    sent = {"Content-Type": "application/problem+json", **headers}
    return {"status": status, "headers": sent, "body": json.dumps(body)}


def test_every_dropped_picture_is_answered_and_the_arrow_keys_move_between_them(page: Page):
    drop_all(page, THREE)
    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")
    assert states(page) == ["done"] * 3
    assert first_name(page) == "red"

    page.get_by_role("option", name="red.png").focus()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    for key, name, colour in [
        ("ArrowRight", "lime.png", "green"),
        ("End", "blue.png", "blue"),
        ("ArrowRight", "blue.png", "blue"),
        ("ArrowLeft", "lime.png", "green"),
        ("Home", "red.png", "red"),
    ]:
        page.keyboard.press(key)
        expect(page.get_by_role("option", name=name)).to_be_focused()
        expect(page.locator("#strip [aria-selected=true]")).to_have_accessible_name(f"{name}: done")
        expect(page.locator("#labels li .name").first).to_have_text(colour)
    # What was answered is kept; only the picture itself is fetched, from the browser.
    assert [url for url in sent if not url.startswith("blob:")] == []


def test_each_answered_picture_has_a_thumbnail_of_itself(page: Page):
    drop_all(page, THREE)
    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")

    script = """(canvas) => [...canvas.getContext("2d").getImageData(9, 9, 1, 1).data]"""
    for name, seen in [("red", [255, 0, 0, 255]), ("lime", [0, 255, 0, 255])]:
        canvas = page.get_by_role("option", name=name).locator("canvas")
        page.wait_for_function(
            "(canvas) => canvas.getContext('2d').getImageData(9, 9, 1, 1).data[3]",
            arg=canvas.element_handle(),
        )
        assert canvas.evaluate(script) == seen


def test_a_picture_that_is_refused_says_why_and_the_others_are_answered(page: Page):
    drop_all(page, {"a.png": THREE["red.png"], "b.png": b"%PDF-1.7", "c.png": THREE["blue.png"]})
    expect(page.locator("#progress")).to_have_text("2 of 3 pictures answered, 1 failed")
    assert states(page) == ["done", "failed", "done"]
    expect(page.locator("#problem")).to_be_hidden()

    page.get_by_role("option", name="b.png: failed").click()

    # In the words of the service.
    expect(page.locator("#problem-detail")).to_contain_text("got PDF")
    # It would be refused again.
    expect(page.locator("#again")).to_be_hidden()
    page.get_by_role("option", name="c.png: done").click()
    expect(page.locator("#problem")).to_be_hidden()
    assert first_name(page) == "blue"


def test_two_hundred_pictures_are_asked_about_two_at_a_time(page: Page):
    counts = in_flight(page)
    files = {f"{i}.png": square(COLOURS[i % 3]) for i in range(200)}

    drop_all(page, files)

    expect(page.locator("#progress")).to_have_text("200 of 200 pictures answered", timeout=60_000)
    assert max(counts) == 2
    assert len(counts) == 200
    page.get_by_role("option", name="199.png").click()
    expect(page.locator("#labels li .name").first).to_have_text(NAMES[COLOURS[199 % 3]])


def test_a_busy_service_is_waited_for_as_long_as_it_asks_and_then_asked_again(page: Page):
    asked: list[float] = []

    def busy_at_first(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            route.continue_()
            return
        route.fulfill(**problem(429, "overloaded", "All places are taken.", **{"Retry-After": "1"}))

    page.route("**/v1/classify*", busy_at_first)
    drop_all(page, THREE)

    expect(page.locator("#waiting")).to_contain_text(
        "asked to wait 1 second. All places are taken."
    )
    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")
    expect(page.locator("#waiting")).to_be_empty()
    # Two were on their way; although one of them was answered, nobody asked for a second.
    assert len(asked) == 4
    assert asked[2] - asked[1] > 0.95


def test_a_service_that_stays_busy_is_not_asked_for_ever(page: Page):
    asked: list[str] = []

    def busy(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(**problem(429, "overloaded", "All places are taken.", **{"Retry-After": "0"}))

    page.route("**/v1/classify*", busy)
    drop_all(page, {"red.png": THREE["red.png"]})

    expect(page.locator("#problem-detail")).to_have_text("All places are taken.")
    assert len(asked) == 8


def test_a_wait_of_an_hour_is_told_instead_of_waited(page: Page):
    quota = problem(429, "quota_exceeded", "Come back tomorrow.", **{"Retry-After": "3600"})
    page.route("**/v1/classify*", lambda route: route.fulfill(**quota))

    drop_all(page, {"red.png": THREE["red.png"]})

    expect(page.locator("#problem-title")).to_have_text("Title of quota_exceeded")
    expect(page.locator("#problem-detail")).to_have_text("Come back tomorrow.")


def test_what_failed_for_a_while_is_asked_again_with_one_button(page: Page):
    page.route("**/v1/classify*", lambda route: route.abort())
    drop_all(page, THREE)
    expect(page.locator("#progress")).to_have_text("0 of 3 pictures answered, 3 failed")
    expect(page.locator("#problem")).to_contain_text("Is it still running?")
    page.unroute("**/v1/classify*")

    page.get_by_role("button", name="Ask the 3 failed again").click()

    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")
    expect(page.locator("#problem")).to_be_hidden()


def test_a_file_that_is_gone_when_its_turn_comes_is_told_so_and_the_service_is_not_blamed(
    browser: Browser, address: str, tmp_path: Path
):
    files = [tmp_path / "gone.png", tmp_path / "red.png"]
    for file in files:
        file.write_bytes(THREE["red.png"])
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    with browsing.opened(browser, address) as page:
        page.route("**/v1/models", hold)
        with page.expect_request("**/v1/models"):
            page.reload(wait_until="commit")
        # Chosen before the models are known, and asked about once they are.
        page.set_input_files("#file", files)
        expect(page.locator("#status")).to_be_visible()
        files[0].unlink()
        held[0].continue_()

        expect(page.locator("#problem-title")).to_contain_text("This file cannot be read")
        expect(page.locator("#problem-detail")).to_have_text("gone.png")
        expect(page.locator("#progress")).to_have_text("1 of 2 pictures answered, 1 failed")


def test_pictures_can_be_removed_one_by_one_and_all_at_once(page: Page):
    drop_all(page, THREE)
    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")

    page.get_by_role("option", name="red.png").focus()
    page.keyboard.press("Delete")
    expect(page.get_by_role("option", name="lime.png")).to_be_focused()
    expect(page.locator("#labels li .name").first).to_have_text("green")
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("#labels li .name").first).to_have_text("blue")

    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#drop")).to_be_visible()
    expect(page.locator("#file")).to_be_focused()
    expect(page.locator("#labels li")).to_have_count(0)


def test_another_model_is_asked_about_all_pictures_and_the_first_answers_are_kept(page: Page):
    drop_all(page, THREE)
    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))

    page.select_option("#model", "more-colours")
    expect(page.locator("#status")).to_contain_text("more-colours, version 1")
    expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")
    page.select_option("#model", "colours")
    expect(page.locator("#status")).to_contain_text(re.compile("^colours, version 1"))

    assert len([url for url in sent if "/v1/classify" in url]) == 3
