"""Where drawn pictures are written, and what is never written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from gpusq.drawn_files import DrawnFiles

IMAGE = Image.new("RGB", (4, 4), "red")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "dog.jpg"
    path.write_bytes(b"the photo")
    return path


def test_a_drawing_has_the_name_of_its_picture_and_stands_alone(photo: Path, tmp_path: Path):
    folder = tmp_path / "new" / "drawn"

    target = DrawnFiles(folder, [photo]).save(IMAGE, photo)

    assert target == folder / "dog.drawn.png"
    assert list(folder.iterdir()) == [target]
    with Image.open(target) as drawn:
        assert drawn.size == (4, 4)


def test_pictures_of_one_name_have_a_number_and_an_earlier_call_is_replaced(
    photo: Path, tmp_path: Path
):
    others = [tmp_path / "Dog.png", tmp_path / "b" / "dog.webp"]

    for _ in range(2):
        files = DrawnFiles(tmp_path, [photo, *others])
        names = [files.save(IMAGE, picture).name for picture in (photo, *others)]

        assert names == ["dog.drawn.png", "Dog-2.drawn.png", "dog-3.drawn.png"]


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
def test_a_picture_that_was_asked_about_is_not_written_over(photo: Path, tmp_path: Path, link: str):
    asked = tmp_path / "dog.drawn.png"
    if link == "itself":
        asked.write_bytes(b"the photo")
        photo = asked
    elif link == "symbolic":
        asked.symlink_to(photo)
    else:
        asked.hardlink_to(photo)
    files = DrawnFiles(tmp_path, [photo])

    target = files.save(IMAGE, Path("elsewhere/dog.jpg"))

    assert target.name == "dog-2.drawn.png"
    assert asked.read_bytes() == b"the photo"


def test_a_drawing_that_cannot_be_written_leaves_nothing(photo: Path, tmp_path: Path):
    folder = tmp_path / "drawn"
    files = DrawnFiles(folder, [photo])
    (folder / "dog.drawn.png").mkdir()

    with pytest.raises(OSError, match=r"dog\.drawn"):
        files.save(IMAGE, photo)

    assert [path.name for path in folder.iterdir()] == ["dog.drawn.png"]


def test_nothing_is_written_through_a_link_of_somebody_else(photo: Path, tmp_path: Path):
    (tmp_path / f".dog.drawn.png.{os.getpid()}").symlink_to(photo)

    with pytest.raises(FileExistsError):
        DrawnFiles(tmp_path, []).save(IMAGE, photo)

    assert photo.read_bytes() == b"the photo"
