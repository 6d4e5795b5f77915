"""A real browser on the real command. Skips whatever imports it where there is no Chromium."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
if not CHROMIUM.exists():
    pytest.skip(f"there is no Chromium at {CHROMIUM}", allow_module_level=True)

from playwright.sync_api import Browser, Page, Request, sync_playwright  # noqa: E402

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def served(repository: Path, **settings: str) -> Iterator[str]:
    """Run the service on a repository, with settings by their variables; gives its address."""
    arguments = ["--repository", str(repository), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={**os.environ, "GPUSQ_GRPC_PORT": "0", **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if found := re.search(r"ready at (http://\S+)", line):
                # A log that nobody reads would fill the pipe, and the service wait at it.
                threading.Thread(target=running.stderr.read, daemon=True).start()
                yield found[1]
                break
        else:
            pytest.fail("the service did not start")
        running.terminate()


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Start a browser without a window."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """Open a page; afterwards, nothing may have gone elsewhere or been refused."""
    page = browser.new_page()
    hosts: set[str | None] = set()
    complaints: list[str] = []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    page.goto(address)
    yield page
    page.close()
    # A blob: address, the preview of the picture, has no host, and a data: address neither.
    assert hosts <= {"127.0.0.1", None}
    assert not complaints


def drop(page: Page, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    """Drop a file on the page as a hand would."""
    drop_all(page, {name: data}, kind)


def drop_all(page: Page, files: Mapping[str, bytes], kind: str = "image/png") -> None:
    """Drop files on the page at once."""
    script = """([files, type]) => {
        const transfer = new DataTransfer();
        for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
        }
        return transfer;
    }"""
    texts = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
    transfer = page.evaluate_handle(script, [texts, kind])
    page.dispatch_event("#picture", "drop", {"dataTransfer": transfer})


def in_flight(page: Page) -> list[int]:
    """Return a list that gets, whenever a picture is sent, how many are on their way then."""
    running: set[Request] = set()
    counts: list[int] = []

    def begun(request: Request) -> None:
        if request.method == "POST":
            running.add(request)
            counts.append(len(running))

    def ended(request: Request) -> None:
        running.discard(request)

    page.on("request", begun)
    page.on("requestfinished", ended)
    return counts


def shown_width(page: Page) -> int:
    """Return the width of the picture that is shown, once the browser has it."""
    script = "async (image) => { await image.decode(); return image.naturalWidth; }"
    return int(page.locator("#preview").evaluate(script))


def rgb(colour: str) -> list[float]:
    """Return red, green and blue, 0 to 255, and alpha, 0 to 1, of a computed colour."""
    *channels, alpha = [*map(float, re.findall(r"[\d.]+", colour)), 1.0][:4]
    return [*channels, alpha]


def over(colours: Sequence[str]) -> list[float]:
    """Return what is seen where colours lie one over the other, the lowest first."""
    seen = np.zeros(3)
    for colour in colours:
        *channels, alpha = rgb(colour)
        seen = alpha * np.array(channels) + (1 - alpha) * seen
    return [float(channel) for channel in seen]


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the ratio of two colours, each 0 to 255, as WCAG 2 has it."""
    levels = []
    for colour in (one, other):
        channels = [value / 255 for value in colour[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        levels.append(0.05 + float(np.dot((0.2126, 0.7152, 0.0722), linear)))
    return max(levels) / min(levels)
