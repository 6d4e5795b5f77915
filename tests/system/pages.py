"""Fixtures of every test of the page: a browser, and the page where the service is ready.

Whoever takes them says with a fixture `address` which service it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system import browsing

# Only where there is a browser, which browsing.py looks for.
from playwright.sync_api import Browser, Page, expect  # isort: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start one for the tests of a module."""
    with browsing.launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open the page, and wait until it knows the models."""
    with browsing.opened(browser, address) as page:
        expect(page.locator("#model")).to_be_enabled()
        yield page
