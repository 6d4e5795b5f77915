"""Where drawn pictures go: never over a picture that was asked about, and never half a file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

SUFFIX: Final = ".drawn.png"


class DrawnFiles:
    """A folder that fills with drawn pictures.

    Args:
        folder: Made when missing.
        pictures: What is asked about.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._asked = {_file(picture) for picture in pictures} - {None}
        self._written: set[str] = set()

    def save(self, image: Image.Image, picture: Path) -> Path:
        """Write the drawing of one picture, and return where.

        ``dog.jpg`` becomes ``dog.drawn.png``, or ``dog-2.drawn.png`` where the first was another
        picture of this call. A drawing of an earlier call is replaced.

        Raises:
            OSError: It cannot be written.
        """
        target = self._free(picture.stem)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            # Never through a link that somebody else laid there.
            with partial.open("xb") as file:
                image.save(file, "PNG")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _free(self, stem: str) -> Path:
        for i in itertools.count(1):
            target = self._folder / f"{stem if i == 1 else f'{stem}-{i}'}{SUFFIX}"
            # Some file systems take names that differ in case for one.
            known = target.name.casefold()
            if known not in self._written and _file(target) not in self._asked:
                self._written.add(known)
                return target
        raise AssertionError("numbers do not end")


def _file(path: Path) -> tuple[int, int] | None:
    """Return what all names of one file have in common; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
