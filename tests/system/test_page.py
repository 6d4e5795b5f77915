"""The page in a real browser, on the real command with real networks.

Skipped only where there is no Chromium; name another one in CHROMIUM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import encoded
from tests.system import browsing
from tests.system.browsing import contrast, drop, rgb, shown_width

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Page, expect  # isort: skip

pytestmark = pytest.mark.browser
pytest_plugins = ["tests.system.pages"]


@pytest.fixture(scope="module")
def address(repository: Path) -> Iterator[str]:
    with browsing.served(repository) as address:
        yield address


def photo() -> bytes:
    """A noisy reddish 12 MP photo, held sideways, as a phone writes it."""
    noise = np.random.default_rng(0).integers(0, 60, (300, 400, 3), np.uint8)
    image = Image.fromarray(noise + np.uint8([190, 20, 10])).resize((4000, 3000))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


def test_a_dropped_photo_shows_its_label_and_where_the_time_went(page: Page):
    drop(page, photo())

    first = page.locator("#labels li").first
    expect(first.locator(".name")).to_have_text("red")
    expect(first.locator(".score")).to_have_text(re.compile(r"^9\d\.\d\s%$"))
    expect(page.locator("#status")).to_contain_text("3000 \u00d7 4000 pixels")
    expect(page.locator("#bar > div")).to_have_count(7)
    expect(page.locator("#legend li")).to_have_count(7)
    assert "Network: " in (page.locator("#bar").get_attribute("aria-label") or "")
    assert shown_width(page) == 3000
    expect(page.get_by_role("button", name="Add pictures")).to_be_visible()


def test_a_picture_can_be_chosen_and_then_asked_of_another_model(page: Page):
    blue = encoded(Image.new("RGB", (40, 30), "blue"))
    page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": blue})
    expect(page.locator("#status")).to_contain_text("colours, version 1")
    expect(page.locator("#labels li")).to_have_count(4)

    page.select_option("#model", "more-colours")

    expect(page.locator("#status")).to_contain_text("more-colours, version 1")
    expect(page.locator("#labels li .name").first).to_have_text("blue")
    expect(page.locator("#labels li")).to_have_count(5)
    expect(page.locator("#model option[disabled]")).to_have_text("broken (unavailable)")


def test_what_is_no_picture_is_explained_and_the_next_one_works(page: Page):
    drop(page, b"%PDF-1.7 not a picture", "paper.pdf", "image/png")

    problem = page.locator("#problem")
    expect(problem).to_contain_text("not read: choose a JPEG, PNG or WebP")
    expect(problem).to_contain_text("got PDF")
    expect(page.locator("#time")).to_be_hidden()
    expect(page.locator("#preview")).to_be_hidden()

    drop(page, encoded(Image.new("RGB", (40, 30), (0, 255, 0))), "g.png", "image/png")
    expect(page.locator("#labels li .name").first).to_have_text("green")
    expect(problem).to_be_hidden()


def test_a_file_that_claims_to_be_no_picture_is_told_without_words_of_the_api(page: Page):
    drop(page, b"just a text", "notes.txt", "text/plain")

    expect(page.locator("#problem-title")).to_have_text(
        "This is not a picture: choose a JPEG, PNG or WebP"
    )
    expect(page.locator("#problem-detail")).to_have_text("notes.txt")


def test_a_picture_of_another_declared_type_is_judged_by_its_content(page: Page):
    drop(page, encoded(Image.new("RGB", (40, 30), "blue")), "b.bin", "text/plain")

    expect(page.locator("#labels li .name").first).to_have_text("blue")


def test_a_picture_that_is_refused_is_never_given_to_the_browser(page: Page):
    drop(page, encoded(Image.new("1", (10_000, 6_000))), "huge.png", "image/png")

    expect(page.locator("#problem")).to_contain_text("may have 50,000,000 pixels")
    assert page.locator("#preview").get_attribute("src") is None
    expect(page.locator("#drop")).to_be_visible()


def test_a_file_beyond_the_limit_is_refused_without_sending_it(page: Page):
    sent: list[str] = []
    expect(page.locator("#model")).to_be_enabled()
    page.on("request", lambda request: sent.append(request.url))

    drop(page, b"\xff\xd8\xff" + bytes(11_000_000))

    expect(page.locator("#problem")).to_contain_text("up to 10.0 MB; this one has 11.0 MB")
    assert sent == []


def test_a_small_picture_is_shown_large_with_its_pixels(page: Page):
    digit = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8))
    drop(page, encoded(digit), "digit.png", "image/png")

    assert shown_width(page) == 8
    preview = page.locator("#preview")
    expect(preview).to_have_css("image-rendering", "pixelated")
    box = preview.bounding_box()
    assert box is not None
    assert box["width"] == box["height"] > 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_tracks_of_the_bars_can_be_told_from_the_panel(page: Page, scheme: Any):
    page.emulate_media(color_scheme=scheme)
    drop(page, encoded(Image.new("RGB", (40, 30), "blue")), "b.png", "image/png")

    track, panel = (
        page.locator(selector).first.evaluate("it => getComputedStyle(it).backgroundColor")
        for selector in (".labels .track", ".panel")
    )
    assert contrast(rgb(track), rgb(panel)) > 1.3


def test_the_documentation_works_without_the_internet(page: Page, address: str):
    page.goto(f"{address}/docs")

    expect(page.locator("#swagger-ui")).to_contain_text("Say what a picture shows")
    expect(page.locator("#swagger-ui")).to_contain_text("/v1/models")


def test_the_picture_can_be_chosen_with_the_keyboard(page: Page):
    # Chromium begins to report choosers some time after it is asked to, so ask early.
    page.on("filechooser", lambda _: None)
    expect(page.locator("#model")).to_be_enabled()
    # Past a link that skips, two others, and the choice of models.
    for _ in range(6):
        page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()

    with page.expect_file_chooser(timeout=5000):
        page.keyboard.press("Enter")
