"""The file of API keys: read, read again when it changes, and changed in one step."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from service.errors import KeysError, StartError
from service.security import files, keys
from service.security.files import Look
from service.security.keys import Key, KeysFile

logger = logging.getLogger(__name__)

_CHECK_S: Final = 1.0
_MAX_BYTES: Final = 10_000_000
_OWNER: Final = stat.S_IRUSR | stat.S_IWUSR


class KeyFile:
    """The keys of a file, as it was when it was last whole.

    Args:
        path: The file.

    Raises:
        StartError: It cannot be read, or is not of its form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Look | None = None
        self._keys: Mapping[str, Key] = {}
        self._said: str | None = None
        try:
            self._take_up(self._look())
        except KeysError as error:
            raise StartError(
                f"setting api_keys: {error} 'gpusq keys new' makes such a file; without the "
                "setting the service asks for no key."
            ) from error
        self._warn_if_open()

    def keys(self) -> Mapping[str, Key]:
        """Return the keys by fingerprint."""
        return self._keys

    def refresh(self) -> None:
        """Read the file again if it changed; one that is broken or gone changes nothing."""
        try:
            look = self._look()
            if look == self._seen:
                return
            self._take_up(look)
        except KeysError as error:
            self._complain(str(error))
            return
        self._said = None
        logger.info("read %d API keys from %s", len(self._keys), self._path)
        self._warn_if_open()

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_S)
            # A file on a network may keep a thread waiting, not the requests.
            await asyncio.to_thread(self.refresh)

    def _complain(self, said: str) -> None:
        """Say once what is wrong with the file, not every second."""
        if said != self._said:
            logger.error("%s The keys of before stay.", said)
        self._said = said

    def _look(self) -> Look:
        try:
            return files.look(self._path)
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def _take_up(self, look: Look) -> None:
        try:
            self._keys = {key.sha256: key for key in read(self._path).keys}
        finally:
            # A broken file is not read again before it changes.
            self._seen = look

    def _warn_if_open(self) -> None:
        if files.is_open(self._path):
            logger.warning(
                "%s can be read or written by everyone on this machine; it holds no key, but says "
                "who may do what. Take that away: chmod o-rw",
                self._path,
            )


def read(path: Path) -> KeysFile:
    """Read a file of keys.

    Raises:
        KeysError: It cannot be read, or is not of its form.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > _MAX_BYTES:
        raise KeysError(f"expected at most {_MAX_BYTES:,} bytes in {path}, got more.")
    try:
        return keys.parse(content)
    except KeysError as error:
        raise KeysError(f"{path} is no file of API keys: {error}") from error


def change(path: Path, edit: Callable[[KeysFile], KeysFile]) -> None:
    """Replace a file by what ``edit`` makes of it; readers see the old one or the new one.

    A file that does not exist is empty before. Two that change it at once do so in turn.

    Raises:
        KeysError: The file cannot be read, is not of its form, or cannot be written.
    """
    # What a link points to changes, the link stays.
    path = Path(os.path.realpath(path))
    with _alone(path.parent):
        before = read(path) if path.exists() else KeysFile()
        after = edit(before)
        text = after.model_dump_json(indent=2, exclude_none=True) + "\n"
        try:
            _write(path, text.encode("utf-8"))
        except OSError as error:
            raise KeysError(f"cannot write {path}: {error.strerror}.") from error


def _write(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=".gpusq-keys-", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            _keep_owner(path, file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _keep_owner(path: Path, handle: int) -> None:
    """Let a service of another user go on reading what it could read before, by its group too."""
    mode = _OWNER
    if path.exists():
        found = path.stat()
        mode |= found.st_mode & stat.S_IRGRP
        if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(handle, found.st_uid, found.st_gid)
    os.fchmod(handle, mode)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise KeysError(f"cannot open the folder {folder}: {error.strerror}.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unreadable(path: Path, error: OSError) -> KeysError:
    return KeysError(f"cannot read the API keys in {path}: {error.strerror}.")
