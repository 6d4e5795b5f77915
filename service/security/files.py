"""What is asked of every file with a secret or a permission in it."""

from __future__ import annotations

import stat
from pathlib import Path

# When it was written, as it says and as the kernel says, which one it is, how long: changes with a
# file, whatever replaces it. A copy that keeps times sets the first only.
Look = tuple[int, int, int, int]


def look(path: Path) -> Look:
    """Return what changes when a file does.

    Raises:
        OSError: There is no such file, or it may not be looked at.
    """
    found = path.stat()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def is_open(path: Path) -> bool:
    """Say whether everyone on the machine may read or write a file; no if it is gone."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False
