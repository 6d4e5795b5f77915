import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.card import PARAMETER
from service.errors import ModelError, StartError
from service.executors import choice, repository
from service.settings import Settings
from tests import bundles


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "config.pbtxt"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def add(folder: Path, line: str) -> None:
    with (folder / "config.pbtxt").open("a", encoding="utf-8") as file:
        file.write(line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.write_model(tmp_path, "colours")


def test_a_model_is_read_with_its_card(folder: Path):
    stored = repository.read(folder)

    assert (stored.model.name, stored.model.version) == ("colours", 1)
    assert stored.model.card == bundles.colour_card()
    assert stored.path == folder / "1" / "model.onnx"
    assert [str(spec) for spec in stored.model.outputs] == ["'scores' float32 [-1, 4]"]


def test_the_pinned_version_is_read_even_if_a_newer_one_lies_there(folder: Path):
    (folder / "2").mkdir()

    assert repository.read(folder).model.version == 1


def test_without_a_pin_the_newest_version_is_read(folder: Path):
    edit(folder, "versions: 1", "")
    (folder / "10").mkdir()
    (folder / "9").mkdir()
    (folder / "1" / "model.onnx").rename(folder / "10" / "model.onnx")

    assert repository.read(folder).model.version == 10


def test_the_configuration_may_name_another_file(folder: Path):
    add(folder, 'default_model_filename: "int8.onnx"\n')
    (folder / "1" / "model.onnx").rename(folder / "1" / "int8.onnx")

    assert repository.read(folder).path.name == "int8.onnx"


def test_folders_that_are_being_written_are_left_alone(folder: Path):
    (folder.parent / ".colours.partial").mkdir()
    (folder.parent / "README.md").touch()

    assert repository.folders(folder.parent) == [folder]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / "config.pbtxt").unlink(), "no config.pbtxt"),
        (lambda f: add(f, "no_such_field: 1"), "no_such_field"),
        (lambda f: (f / "config.pbtxt").write_bytes(b"\xff\xfe"), "cannot be parsed"),
        (lambda f: edit(f, PARAMETER, "other"), f"no parameter '{PARAMETER}'"),
        (lambda f: edit(f, "versions: 1", "versions: 4"), r"pins version 4, the folder has \[1\]"),
        (lambda f: (f / "1" / "model.onnx").unlink(), "version 1 has no model.onnx"),
        (lambda f: add(f, 'default_model_filename: "model.pt"'), "not ONNX"),
        (lambda f: edit(f, "TYPE_UINT8", "TYPE_FP32"), "'image' uint8"),
        (lambda f: edit(f, "dims: 8", "dims: 9"), "'image' uint8"),
        (lambda f: edit(f, "TYPE_FP32", "TYPE_STRING"), "TYPE_STRING"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(folder: Path, break_it, said: str):
    break_it(folder)

    with pytest.raises(ModelError, match=said):
        repository.read(folder)


def test_a_folder_without_a_version_is_refused(folder: Path):
    edit(folder, "versions: 1", "")
    (folder / "1").rename(folder / "first")

    with pytest.raises(ModelError, match="no version"):
        repository.read(folder)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """Return a repository of two models, of which one may not be looked into."""
    bundles.write_model(tmp_path, "colours")
    shut = bundles.write_model(tmp_path, "shut")
    shut.chmod(0)
    if os.access(shut, os.R_OK):
        shut.chmod(0o755)
        pytest.skip("nothing is closed to this user")
    yield tmp_path
    shut.chmod(0o755)


def test_a_folder_that_may_not_be_read_is_a_model_that_is_unavailable(closed: Path):
    executor = choice.load(Settings(repository=closed, executor="onnxruntime"))

    assert executor.models.keys() == {"colours"}
    assert "Permission denied" in executor.unavailable["shut"]
    executor.close()


def test_a_repository_that_may_not_be_read_is_said_so(closed: Path):
    with pytest.raises(StartError, match=r"may not be looked at: Permission denied. Let the user"):
        repository.folders(closed / "shut" / "inside")
