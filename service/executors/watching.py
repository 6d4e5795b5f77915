"""See which models of a repository came, changed or went, by looking at their files.

By looking from time to time, because a network file system tells nobody of changes that another
machine made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.executors import repository

# Name, time of the last change, size and inode of one file or folder.
Stamp = tuple[str, int, int, int]
Stamps = tuple[Stamp, ...]


@dataclass(frozen=True)
class Look:
    """What one look at a repository showed.

    Args:
        changed: Folders of models that are new, or have other files than at the last look.
        gone: Names of models that are no longer there.
    """

    changed: list[Path] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class Watcher:
    """Looks at a repository and remembers what it saw.

    Args:
        folder: The repository.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, Stamps] = {}
        self._missed: set[str] = set()

    def look(self) -> Look:
        """Compare the repository with how it was.

        A folder without a configuration is no model, or not yet. One that was a model is gone when
        two looks have missed it: whoever replaces a folder by hand takes it away for a moment.

        Raises:
            StartError: There is no repository, or no model in it, as when it is not mounted.
            OSError: It cannot be read.
        """
        stamps: dict[Path, Stamps] = {}
        for folder in repository.folders(self._folder):
            if repository.is_model(folder):
                stamps[folder] = stamps_of(folder)
        present = {folder.name: found for folder, found in stamps.items()}
        missing = self._seen.keys() - present.keys()
        gone = sorted(missing & self._missed)
        self._missed = set(missing)
        changed = [f for f, found in stamps.items() if self._seen.get(f.name) != found]
        self._seen.update(present)
        for name in gone:
            self.forget(name)
        return Look(changed, gone)

    def forget(self, name: str) -> None:
        """Take a model for new at the next look."""
        self._seen.pop(name, None)


def stamps_of(folder: Path) -> Stamps:
    """Return what changes when the files of a model do, or those of one version.

    Raises:
        OSError: The folder cannot be read.
    """
    return tuple(sorted(_stamps(folder)))


def _stamps(folder: Path, below: str = "") -> Iterator[Stamp]:
    try:
        entries = os.scandir(folder)
    except PermissionError:
        # A model that cannot be loaded, which says why; the others can.
        yield f"{below}closed", 0, 0, 0
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except (FileNotFoundError, PermissionError):
                # Removed since, a link to nowhere, or in a folder that only lists its names.
                continue
            name = f"{below}{entry.name}"
            yield name, status.st_mtime_ns, status.st_size, status.st_ino
            # Versions hold files alone; whatever lies deeper is nobody's network.
            if not below and entry.is_dir():
                yield from _stamps(Path(entry.path), f"{name}/")
