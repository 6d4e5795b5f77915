"""The folder of one run: what is finished, what is under way, and for which recipe.

Everything is written beside its place and renamed into it, so that a killed run leaves either
the old file or the new one.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compress.errors import CheckpointError


class Run:
    """One run's folder.

    Args:
        folder: Created when it is not there.
        digest: Of the recipe; a folder that belongs to another one is refused.
        restart: Throw away what the folder holds.

    Raises:
        CheckpointError: The folder was begun by another recipe, or holds something else.
    """

    def __init__(self, folder: Path, digest: str, *, restart: bool = False) -> None:
        self.folder = folder
        stamp = folder / "recipe.digest"
        if not stamp.exists() and folder.exists() and any(folder.iterdir()):
            raise CheckpointError(
                f"expected an empty folder or an earlier run at {folder}, found other files. "
                "Set another 'run' folder."
            )
        others = stamp.exists() and stamp.read_text(encoding="utf-8").strip() != digest
        # A refused recipe leaves its stamp and empty curves; the mended one takes the folder.
        kept = others and any(path.suffix in {".pt", ".json"} for path in folder.iterdir())
        if stamp.exists() and (restart or (others and not kept)):
            shutil.rmtree(folder)
        elif kept:
            raise CheckpointError(
                f"{folder} holds a run of another recipe, or of this one before it was changed. "
                "Give --restart to throw that run away, or set another 'run' folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        write_atomically(stamp, lambda path: path.write_text(digest + "\n", encoding="utf-8"))

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep ``state`` (tensors and plain values) as ``name``."""
        write_atomically(self.folder / f"{name}.pt", lambda path: torch.save(state, path))

    def has(self, name: str) -> bool:
        """Say whether something is kept as ``name``."""
        return (self.folder / f"{name}.pt").exists()

    def load(self, name: str) -> dict[str, Any] | None:
        """Return what :meth:`save` kept as ``name``, or None.

        Raises:
            CheckpointError: The file is there and cannot be read.
        """
        path = self.folder / f"{name}.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"cannot read {path}, it is damaged. Delete it to do that stage again."
            ) from error
        return state

    def drop(self, name: str) -> None:
        """Forget ``name``."""
        (self.folder / f"{name}.pt").unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> Path:
        """Keep ``value`` as readable JSON."""
        path = self.folder / f"{name}.json"
        text = json.dumps(value, indent=2) + "\n"
        write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
        return path

    def read_json(self, name: str) -> Any:
        """Return what :meth:`write_json` kept as ``name``, or None."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _sweep(folder: Path) -> None:
    """Delete what writers that were killed left unfinished; see :func:`write_atomically`."""
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdigit():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it into place."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
