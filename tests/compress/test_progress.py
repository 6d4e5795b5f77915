import io
import logging
import sys
import time

import pytest
import yaml

from compress.__main__ import main
from compress.progress import progress
from tests.compress import tiny


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)

    with progress("sparse", 3, "step") as bar:
        bar.update(3)

    assert "3/3" in shown.getvalue()
    assert "\r" in shown.getvalue()


def test_a_file_has_a_plain_line_now_and_then(monkeypatch, caplog):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    with caplog.at_level(logging.INFO), progress("sparse", 4, "step", first=1) as bar:
        for _ in range(3):
            bar.update()
            bar.set_postfix({"loss": "0.5"})

    # Of every two steps, twenty seconds each, one is thirty seconds after the line before.
    assert [record.getMessage() for record in caplog.records] == [
        "sparse: 3 of 4 steps, loss 0.5",
        "sparse: 4 of 4 steps, loss 0.5",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_process_that_is_not_the_main_one_shows_nothing(monkeypatch, caplog, terminal):
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)

    with caplog.at_level(logging.INFO), progress("sparse", 2, "step", quiet=True) as bar:
        bar.update(2)

    assert (shown.getvalue(), caplog.records) == ("", [])


def test_what_compress_writes_into_a_file_is_lines_and_ends_with_what_was_found(
    tmp_path, capfd, caplog
):
    tiny.write_pictures(tmp_path / "train", each=4)
    tiny.write_pictures(tmp_path / "test", each=4)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny.plain_recipe(tmp_path)))

    with caplog.at_level(logging.INFO):
        assert main(["compress", str(path)]) == 0

    written = capfd.readouterr()
    assert not {"\r", "\x1b"} & set(written.out + written.err)
    said = [record.getMessage() for record in caplog.records]
    for stage in ("teacher", "sparse", "quantized"):
        assert any(line.startswith(f"{stage}: 6 of 6 steps") for line in said)
    last, report, model = written.out.splitlines()[-3:]
    assert last.startswith("dense ")
    assert " -> 2:4 " in last
    assert " % on held out; " in last
    assert report.startswith("Report: ")
    assert model.startswith("Model: ")
    assert "tiny: version 1 is served from now on" in said

    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(["compress", str(path)]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert "tiny: version 1, which is served, holds the same; nothing is published" in said
