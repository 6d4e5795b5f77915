"""The page and the documentation: static, and asking nothing of another host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.rest import pages
from service.settings import Settings
from tests.conftest import Serve
from tests.service.fakes import FakeExecutor


@pytest.fixture(scope="module")
def client(serve: Serve) -> Iterator[httpx.Client]:
    with serve(create_app(Settings(), FakeExecutor())) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_only_from_this_service(client: httpx.Client, path: str):
    page = client.get(path)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    references = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert references
    for reference in references:
        assert reference.startswith("/")
        assert not reference.startswith("//")
        assert client.get(reference).status_code == 200, reference


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_browser_is_told_to_ask_no_other_host(client: httpx.Client, path: str):
    policy = client.get(path).headers["content-security-policy"]

    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'self';" in policy


WEB = Path(pages.__file__).parents[1] / "web"
SCRIPTS = sorted(path.name for path in WEB.glob("*.js"))
STYLES = sorted(path.name for path in WEB.glob("*.css"))


@pytest.mark.parametrize("name", ["icon.svg", *STYLES, *SCRIPTS])
def test_our_own_assets_name_no_host(client: httpx.Client, name: str):
    asset = client.get(f"/assets/{name}")

    assert asset.status_code == 200
    assert asset.headers["x-content-type-options"] == "nosniff"
    # The namespace of SVG is a name, not an address.
    assert "//" not in re.sub(
        r"http://www\.w3\.org/2000/svg|^\s*//.*$", "", asset.text, flags=re.MULTILINE
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_never_inserts_html(client: httpx.Client, name: str):
    script = client.get(f"/assets/{name}").text

    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_imports_is_served(client: httpx.Client, name: str):
    script = client.get(f"/assets/{name}").text
    imported = re.findall(r'from "([^"]+)"', script)

    assert len(imported) == len(re.findall(r"^import\b", script, flags=re.MULTILINE))
    assert all(client.get(path).status_code == 200 for path in imported)


def test_swagger_ui_asks_no_validator(client: httpx.Client):
    assert "validatorUrl: null" in client.get("/assets/docs.js").text


@pytest.mark.parametrize("name", ["nothing.js", "..%2Findex.html", "%2e%2e/%2e%2e/app.py"])
def test_only_what_the_pages_need_is_served(client: httpx.Client, name: str):
    assert client.get(f"/assets/{name}").status_code == 404
