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
