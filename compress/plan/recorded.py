"""Pictures with the answers that a plan has to give, made where the graph was made.

They travel in the bundle, so that a plan can be checked on a machine with nothing but TensorRT,
NumPy and onnx. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compress import reference
from compress.answers import Answers, joined
from compress.errors import PlanError
from compress.plan.bundle import Bundle
from contract.card import ModelCard
from contract.errors import ImageError

FILE: Final = "answers.npz"
# Before compression. Enough for 32 pictures of 224 x 224, and for one of 800 x 1216.
BUDGET_BYTES: Final = 5_000_000
MOST_PICTURES: Final = 32
# FP16 between INT8 layers moves probabilities more than another order of sums does; what a class
# or an object is has to stay, as everywhere.
ALLOWED: Final = {"classify": 1e-2}

_LOG = logging.getLogger(__name__)
_PICTURES: Final = "image"
_DIGEST: Final = "model_sha256"
_ANSWER: Final = "answer."
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class Recorded:
    """What a graph answers to some pictures.

    Args:
        pictures: uint8 [n, h, w, 3], as preprocessing leaves them.
        answers: Of the graph in ONNX Runtime, in float, by output.
        source: Where they come from, for people.
    """

    pictures: npt.NDArray[np.uint8]
    answers: Answers
    source: str

    def digest(self, folder: Path) -> str:
        """Return what a bundle's graph and these pictures are told by."""
        shown = hashlib.sha256(np.ascontiguousarray(self.pictures).tobytes()).hexdigest()
        return f"{_digest(folder / 'model.onnx')} {shown}"

    def save(self, folder: Path) -> None:
        """Write them beside a bundle's graph."""
        named: dict[str, Any] = {_ANSWER + name: values for name, values in self.answers.items()}
        named[_PICTURES] = self.pictures
        named[_DIGEST] = np.array(_digest(folder / "model.onnx"))
        np.savez_compressed(folder / FILE, **named)


def ask(model: Path, pictures: npt.NDArray[np.uint8], source: str) -> Recorded:
    """Let ONNX Runtime answer, one picture at a time so that memory stays small."""
    asked = reference.onnx_asked(model)
    chosen = pictures[: how_many(pictures.shape[1:3])]
    answers = joined(asked(chosen[index : index + 1]) for index in range(len(chosen)))
    return Recorded(chosen, answers, source)


def how_many(size: tuple[int, ...]) -> int:
    """Return how many pictures of a size [h, w] are recorded.

    >>> how_many((224, 224)), how_many((800, 1216)), how_many((8, 8))
    (32, 1, 32)
    """
    return max(1, min(MOST_PICTURES, BUDGET_BYTES // (size[0] * size[1] * 3)))


def read(folder: Path) -> Recorded | None:
    """Read what export wrote into a bundle; None where there is no such file.

    Raises:
        PlanError: The file is damaged, or of another graph than the bundle's.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            named: Mapping[str, Any] = {name: stored[name] for name in stored.files}
        pictures, digest = named[_PICTURES], str(named[_DIGEST])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PlanError(
            f"expected recorded answers in {path}, found a damaged file ({error}). Copy the bundle "
            "again, or export it again."
        ) from error
    if digest != _digest(folder / "model.onnx"):
        raise PlanError(
            f"{path} holds the answers of another graph than model.onnx beside it. Copy the whole "
            "bundle, or export it again."
        )
    answers = {
        name.removeprefix(_ANSWER): values
        for name, values in named.items()
        if name.startswith(_ANSWER)
    }
    return Recorded(pictures, answers, f"{len(pictures)} pictures recorded at export")


def read_for(bundle: Bundle) -> Recorded | None:
    """Read what export wrote beside a graph, and check that it fits the graph.

    Raises:
        PlanError: As for :func:`read`; or answers are missing, or of another number or shape.
    """
    found = read(bundle.model.parent)
    if found is None:
        return None
    count = len(found.pictures) if found.pictures.ndim else 0
    expected = {tensor.name: (tensor.element, (count, *tensor.dims)) for tensor in bundle.outputs}
    came = {name: (values.dtype.name, values.shape) for name, values in found.answers.items()}
    (image,) = bundle.inputs
    shown = (found.pictures.dtype.name, found.pictures.shape)
    if not count or shown != ("uint8", (count, *image.dims)) or came != expected:
        raise PlanError(
            f"{bundle.model.parent / FILE} does not fit the graph beside it: expected pictures as "
            f"{image} and answers to each of them, {', '.join(map(str, bundle.outputs))}. Copy the "
            "whole bundle, or export it again."
        )
    return found


def from_folder(model: Path, card: ModelCard, folder: Path) -> Recorded:
    """Let ONNX Runtime on this machine answer pictures of a folder.

    Args:
        model: The ONNX file.
        card: Says how large its input is.
        folder: Of JPEG, PNG or WebP files; those that cannot be decoded are named and skipped.

    Raises:
        PlanError: There is no picture, or ONNX Runtime is not installed.
    """
    # Pillow decodes; recorded answers are read where it is not installed.
    from contract import preprocess  # noqa: PLC0415

    preprocessing = card.preprocessing
    wanted = how_many((preprocessing.height, preprocessing.width))
    if not folder.is_dir():
        raise PlanError(f"expected a folder of pictures at {folder}, found none")
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES):
        try:
            found.append(preprocess.preprocess(path.read_bytes(), preprocessing))
        except ImageError as error:
            _LOG.warning("skipped %s: %s", path, error)
        if len(found) == wanted:
            break
    if not found:
        raise PlanError(
            f"expected JPEG, PNG or WebP pictures in {folder} to check the plan with, found none"
        )
    try:
        return ask(model, np.stack(found), f"{len(found)} pictures of {folder}")
    except ModuleNotFoundError as error:
        raise PlanError(
            "checking a plan against pictures of a folder needs ONNX Runtime on this machine. "
            "Install onnxruntime, or give a bundle, which holds recorded answers."
        ) from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
