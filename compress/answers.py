"""What a network answers, by the names of the graph contract. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Answers: TypeAlias = Mapping[str, npt.NDArray[Any]]
# uint8 [b, h, w, 3] -> answers.
Asked: TypeAlias = Callable[[npt.NDArray[np.uint8]], Answers]


def joined(answers: Iterable[Answers]) -> dict[str, npt.NDArray[Any]]:
    """Put the answers to several batches behind each other."""
    found = list(answers)
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def in_batches(asked: Asked, pictures: npt.NDArray[np.uint8], batch: int) -> Answers:
    """Ask about pictures so many at a time.

    The last batch is filled up: what is built for one size takes no fewer.
    """
    rest = -len(pictures) % batch
    filled = np.concatenate([pictures, np.repeat(pictures[-1:], rest, axis=0)])
    found = joined(asked(filled[start : start + batch]) for start in range(0, len(filled), batch))
    return {name: values[: len(pictures)] for name, values in found.items()}
