"""The page before a service that wants API keys: asked for, kept in the tab, refused, limited."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.security import keyfile, keys
from service.security.keys import Key, KeysFile, Scope
from tests.conftest import encoded
from tests.system import browsing
from tests.system.browsing import drop_all

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Browser, Page, expect  # isort: skip

pytestmark = pytest.mark.browser
pytest_plugins = ["tests.system.pages"]

WHOLE, SLOW, LIMITED, READER = (keys.generate() for _ in range(4))
HELD = {
    WHOLE: {},
    SLOW: {"rate": 2.0, "burst": 3},
    LIMITED: {"quota": 2},
    READER: {"scopes": (Scope.MODELS,)},
}
RED = encoded(Image.new("RGB", (40, 30), "red"))


@pytest.fixture(scope="module")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    held = tuple(
        Key(id=f"holder-{i}", sha256=keys.fingerprint(key), **limits)
        for i, (key, limits) in enumerate(HELD.items())
    )
    keyfile.change(path, lambda _: KeysFile(keys=held))
    with browsing.served(repository, GPUSQ_API_KEYS=str(path)) as address:
        yield address


@contextlib.contextmanager
def opened_with(browser: Browser, address: str, *typed: str) -> Iterator[Page]:
    """Open the page and type keys into its question, one after the other."""
    with browsing.opened(browser, address) as page:
        for key in typed:
            expect(page.locator("#key-field")).to_have_value("")
            expect(page.locator("#key-field")).to_be_focused()
            with page.expect_response("**/v1/models"):
                page.keyboard.type(key)
                page.keyboard.press("Enter")
        yield page


def several(count: int) -> dict[str, bytes]:
    return {f"{i}.png": RED for i in range(count)}


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(browser: Browser, address: str):
    with opened_with(browser, address, "wrong", WHOLE) as page:
        expect(page.get_by_role("dialog")).to_be_hidden()
        drop_all(page, several(1))

        expect(page.locator("#labels li .name").first).to_have_text("red")
        stores = "() => [Object.values(sessionStorage), Object.keys(localStorage), document.cookie]"
        assert page.evaluate(stores) == [[WHOLE], [], ""]
        assert WHOLE not in page.url
        assert WHOLE not in page.content()
        page.reload()
        expect(page.locator("#model")).to_be_enabled()
        expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_question_says_what_the_service_says(browser: Browser, address: str):
    with browsing.opened(browser, address) as page:
        dialog = page.get_by_role("dialog", name="This service wants an API key")

        expect(dialog).to_contain_text("Authorization: Bearer")


def test_who_gives_no_key_is_asked_once_and_can_give_one_later(browser: Browser, address: str):
    with browsing.opened(browser, address) as page:
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator("#problem")).to_be_visible()
        drop_all(page, several(3))

        page.get_by_role("button", name="API key").click()
        page.keyboard.type(WHOLE)
        page.keyboard.press("Enter")

        expect(page.locator("#progress")).to_have_text("3 of 3 pictures answered")
        expect(page.locator("#problem")).to_be_hidden()


def test_a_key_that_is_withdrawn_meanwhile_is_asked_for_once_for_all_pictures(
    browser: Browser, address: str
):
    with opened_with(browser, address, WHOLE) as page:
        expect(page.locator("#model")).to_be_enabled()
        page.evaluate("sessionStorage.setItem('gpusq-key', 'no longer valid')")
        drop_all(page, several(5))
        expect(page.get_by_role("dialog")).to_be_visible()

        page.keyboard.press("Escape")

        expect(page.locator("#progress")).to_have_text("0 of 5 pictures answered, 5 failed")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.evaluate(f"sessionStorage.setItem('gpusq-key', {WHOLE!r})")
        page.get_by_role("button", name="Ask the 5 failed again").click()
        expect(page.locator("#progress")).to_have_text("5 of 5 pictures answered")


def test_a_rate_is_kept_to_by_waiting_as_long_as_the_service_asks(browser: Browser, address: str):
    with opened_with(browser, address, SLOW) as page:
        expect(page.locator("#model")).to_be_enabled()
        drop_all(page, several(8))

        expect(page.locator("#waiting")).to_contain_text("asked to wait")
        expect(page.locator("#progress")).to_have_text("8 of 8 pictures answered", timeout=20_000)
        expect(page.locator("#waiting")).to_be_empty()


def test_a_quota_that_is_used_up_is_told_at_once(browser: Browser, address: str):
    with opened_with(browser, address, LIMITED) as page:
        expect(page.locator("#model")).to_be_enabled()
        drop_all(page, several(3))

        expect(page.locator("#progress")).to_have_text("2 of 3 pictures answered, 1 failed")
        page.get_by_role("option", name="failed").click()
        expect(page.locator("#problem-detail")).to_contain_text("quota")


def test_a_key_that_is_not_for_pictures_is_refused_in_the_words_of_the_service(
    browser: Browser, address: str
):
    with opened_with(browser, address, READER) as page:
        expect(page.locator("#model")).to_be_enabled()
        drop_all(page, several(1))

        expect(page.locator("#problem-detail")).to_contain_text("infer")
        expect(page.get_by_role("dialog")).to_be_hidden()


def test_what_cannot_be_a_key_is_asked_for_again(browser: Browser, address: str):
    with opened_with(browser, address) as page:
        # As some programs make of what is copied: with a character that no header may hold.
        page.locator("#key-field").fill(f"“{WHOLE}”")
        page.keyboard.press("Enter")

        expect(page.get_by_role("dialog")).to_contain_text("no API key")
        page.locator("#key-field").fill(WHOLE)
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_be_enabled()
        expect(page.get_by_role("dialog")).to_be_hidden()
