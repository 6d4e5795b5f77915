"""docs/client.md: its examples run as they stand, and its tables are whole."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpusq
from gpusq import connection
from gpusq.exchange import DEADLINE_HEADER
from service.app import create_app
from service.executors import choice
from service.rest import inference
from service.settings import Settings
from tests import finding
from tests.conftest import Serve

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def url(scene_repository: Path, serve: Serve) -> Iterator[str]:
    settings = Settings(repository=scene_repository, executor="onnxruntime", deadline_s=30)
    with serve(create_app(settings, choice.load(settings))) as client:
        yield str(client.base_url)


def test_the_examples_run(url: str, tmp_path: Path, monkeypatch, capsys):
    finding.scene((320, 240), {"red": (20, 24, 120, 100)}).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    said = []
    for example in EXAMPLES:
        at_hand = example.replace(connection.DEFAULT_URL, url).replace(
            "Client()", f"Client({url!r})"
        )
        names: dict[str, Any] = {}
        exec(at_hand, names)
        said.append(capsys.readouterr().out)

    one, several, masks, refusal = said
    assert "colours 1 Size(width=320, height=240)" in one
    assert several == "['black', 'black']\n"
    assert re.match(r"red Box\(left=\d+\.\d+, .*\) \d+ pixels\n\{'red': 0\.\d+", masks)
    assert refusal.startswith("415 unsupported_media Expected a JPEG")


def test_every_argument_and_method_and_error_is_explained():
    for argument in inspect.signature(gpusq.Client).parameters:
        assert f"| `{argument}` |" in PAGE
    for name, _ in inspect.getmembers(gpusq.Client, inspect.isfunction):
        assert name[0] == "_" or name == "close" or f"| `{name}(" in PAGE
    for error in gpusq.GpusqError.__subclasses__():
        assert f"| `{error.__name__}` |" in PAGE
        if error is not gpusq.RequestRefusedError:
            assert f"| `{error.code}` |" in PAGE


def test_the_deadline_has_the_name_that_the_service_reads():
    assert DEADLINE_HEADER == inference.TIMEOUT
