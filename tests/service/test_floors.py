"""What is installed is as new as its known faults ask, and what is promised says the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from service.security import floors

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
# The newest Pillow that Python 3.10 can have.
EXCEPTION = "12.3.0"


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_what_is_installed_has_its_known_faults_mended():
    old = floors.below()

    if sys.version_info < (3, 11):
        assert [said.split()[:2] for said in old] == [["pillow", EXCEPTION]]
    else:
        assert old == []


def test_what_is_older_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(floors.FLOORS, "starlette", "999.0.0")

    (said,) = [said for said in floors.below() if said.startswith("starlette ")]

    assert "Install 999.0.0 or newer" in said


@pytest.mark.parametrize("name", floors.FLOORS)
def test_the_package_and_the_page_promise_the_same(name: str):
    floor = floors.FLOORS[name]
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

    assert re.search(rf'"{name}>={re.escape(floor)}["; ]', PROJECT)
    assert re.search(rf"^\| {name} \| {re.escape(floor)} \|", page, re.MULTILINE | re.IGNORECASE)


@pytest.mark.parametrize("name", floors.FLOORS)
def test_what_is_pinned_is_no_older(name: str):
    pins = re.findall(rf"^{name}==([\d.]+)(.*)$", PINS, re.MULTILINE)

    assert pins
    for version, marker in pins:
        excepted = name == "pillow" and "< '3.11'" in marker
        assert numbers(version) >= numbers(EXCEPTION if excepted else floors.FLOORS[name])
