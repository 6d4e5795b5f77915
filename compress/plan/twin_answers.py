"""What the twins of a network answer to the pictures recorded in its bundle.

Written where ONNX Runtime is, read on a GPU machine that has none, so that the plan of each twin
is checked against the same twin. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from compress.answers import Answers
from compress.errors import PlanError
from compress.plan import recorded
from compress.plan.contenders import TWINS, Graph
from compress.plan.recorded import Recorded

FILE: Final = "twins.npz"
_DIGEST: Final = "sha256"


def record(folder: Path) -> list[Graph]:
    """Let ONNX Runtime answer for every twin that a bundle has, and write it into the bundle.

    Returns:
        The twins that there are.

    Raises:
        PlanError: The bundle has no recorded pictures.
    """
    pictures = recorded.read(folder)
    if pictures is None:
        raise PlanError(f"expected {recorded.FILE} in {folder}, found none. Export it again.")
    model = onnx.load(folder / "model.onnx")
    named = {}
    for kind, derive in TWINS.items():
        if kind == "bundle":
            continue
        try:
            twin = derive(model)
        except PlanError:
            # Not every network has every twin.
            continue
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "twin.onnx"
            onnx.save(twin, path)
            found = recorded.ask(path, pictures.pictures, pictures.source).answers
        named.update({f"{kind}.{name}": values for name, values in found.items()})
    kinds = list(dict.fromkeys(name.partition(".")[0] for name in named))
    named[_DIGEST] = np.array(pictures.digest(folder))
    np.savez_compressed(folder / FILE, **named)  # type: ignore[arg-type]
    return kinds  # type: ignore[return-value]


def read(folder: Path, pictures: Recorded | None) -> dict[Graph, Answers]:
    """Return what is recorded, by twin; nothing for those of which nothing is.

    Args:
        folder: The bundle.
        pictures: Those recorded in it, with the bundle's own answers.

    Raises:
        PlanError: The file is damaged, or of another graph or other pictures.
    """
    if pictures is None:
        return {}
    answers: dict[Graph, Answers] = {"bundle": pictures.answers}
    path = folder / FILE
    if not path.is_file():
        return answers
    try:
        # Opened here: NumPy leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            named = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PlanError(
            f"expected recorded answers in {path}, found a damaged file ({error}). Copy the bundle "
            "again, or export it again."
        ) from error
    if str(named.pop(_DIGEST, "")) != pictures.digest(folder):
        raise PlanError(
            f"{path} belongs to another graph or to other pictures than those beside it. Export "
            "the bundle again."
        )
    for kind in TWINS:
        found = {
            name.partition(".")[2]: values
            for name, values in named.items()
            if name.partition(".")[0] == kind
        }
        if found:
            answers[kind] = found
    return answers
