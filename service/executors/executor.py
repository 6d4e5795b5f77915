"""The seam between the gateway and whatever runs the networks. An executor knows no task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contract.card import ModelCard

# [b, h, w, 3], RGB.
Images = npt.NDArray[np.uint8]
Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network.

    Args:
        name: Its name in the graph.
        dtype: NumPy's name of its type, "float32".
        shape: Lengths, the batch axis first; -1 where any length will do.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype} {list(self.shape)}"

    def accepts(self, other: TensorSpec) -> bool:
        """Whether a tensor declared as ``other`` can stand where this one is expected.

        >>> TensorSpec("x", "uint8", (-1, 3)).accepts(TensorSpec("x", "uint8", (1, 3)))
        True
        """
        return (
            (self.name, self.dtype) == (other.name, other.dtype)
            and len(self.shape) == len(other.shape)
            and all(-1 in (a, b) or a == b for a, b in zip(self.shape, other.shape, strict=True))
        )


@dataclass(frozen=True)
class Model:
    """A model that can be asked.

    Args:
        name: Its folder in the repository.
        version: The version that answers.
        card: What the graph does not say.
        inputs: What the network takes.
        outputs: What the network gives.
        max_batch: The largest batch that may be sent.
        file_bytes: Size of the file that is loaded; None where the executor does not see it.
    """

    name: str
    version: int
    card: ModelCard
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int = 1
    file_bytes: int | None = None


# Raises ModelError for a model that whoever asks could not use.
Judge = Callable[[Model], None]


class Executor(Protocol):
    """Runs networks by name."""

    @property
    def name(self) -> str:
        """What runs the networks, for people and for metrics."""

    @property
    def concurrency(self) -> int:
        """How many calls of :meth:`infer` may usefully run at once."""

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that can be asked, loaded and warm."""

    @property
    def unavailable(self) -> Mapping[str, str]:
        """The models that cannot, each with the reason."""

    @property
    def behind(self) -> Mapping[str, str]:
        """The models that answer by an earlier version, with the reason why not by the newest."""

    @property
    def discovers(self) -> bool:
        """Whether it may start without any model, because they are found while it runs."""

    @property
    def down(self) -> str | None:
        """Why nothing at all can be asked for now; None while something can."""

    async def watch(self, changed: Callable[[], None], judge: Judge) -> None:
        """Look after the models until cancelled.

        Args:
            changed: Called when :attr:`models`, :attr:`unavailable`, :attr:`behind` or :attr:`down`
                changed.
            judge: What it refuses does not take the place of what answers.
        """

    async def infer(
        self,
        model: str,
        images: Images,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Run one batch. A call that is cancelled, as at the deadline, costs no further work.

        Args:
            model: Its name.
            images: The batch.
            version: The version that the batch was made for; None for whichever is served.
            timeout_s: How long the answer is waited for; what runs the networks elsewhere is told.

        Raises:
            ModelError: The network failed.
            VersionGoneError: That version is no longer served.
            GatewayError: What runs the networks cannot be reached, is full, or took too long.
        """

    def close(self) -> None:
        """Free what the networks hold."""
