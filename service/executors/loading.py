"""Load a network as its folder describes it, and prove that it answers. Blocks for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from service.errors import ModelError
from service.executors import repository, watching
from service.executors.executor import Images, Judge, Model, Outputs, TensorSpec


class Network(Protocol):
    """A compiled graph."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""

    def run(self, images: Images) -> Outputs:
        """Run one batch, blocking.

        Raises:
            ModelError: The runtime refused or failed.
        """

    def close(self) -> None:
        """Free what it holds; a second time does nothing."""


# Raises ModelError where the runtime refuses the file.
Compile = Callable[[Path], Network]


class CompileForCpu(Protocol):
    """Makes a network of a file for so many runs at once, each with its share of the processors.

    Such a network may be closed while it runs.
    """

    def __call__(self, path: Path, lanes: int = 1) -> Network:
        """Return the network.

        Raises:
            ModelError: The runtime refuses the file.
        """


@dataclass(frozen=True)
class Lanes:
    """Makes networks of which each runs so many batches at once.

    Args:
        compile_network: Makes one.
        count: How many.
    """

    compile_network: CompileForCpu
    count: int

    def __call__(self, path: Path) -> Network:
        """Return the network of a file."""
        return self.compile_network(path, self.count)


class Loaded:
    """A network that is warm, and how it fared since.

    Args:
        model: What it is.
        network: What runs it.
        origin: Equal where the same files lie behind it.
    """

    def __init__(self, model: Model, network: Network, origin: object) -> None:
        self.model = model
        self.network = network
        self.origin = origin
        # Why it cannot be asked now; None while it answers.
        self.fault: str | None = None
        # Whether it failed for a request since it was last proved.
        self.suspect = False
        self.proved_s = 0.0
        self.proof_took_s = 0.0

    def takes(self, images: Images) -> bool:
        """Whether pictures have the size that the network takes."""
        size = self.model.card.preprocessing
        return images.shape[1:] == (size.height, size.width, 3)

    def prove(self) -> None:
        """Ask for one black picture and compare what comes with what is promised.

        Raises:
            ModelError: It failed, or gave something else.
        """
        began_s = time.monotonic()
        size = self.model.card.preprocessing
        outputs = self.network.run(np.zeros((1, size.height, size.width, 3), np.uint8))
        found = [TensorSpec(name, array.dtype.name, array.shape) for name, array in outputs.items()]
        repository.require_match(self.model.outputs, found, kind="output")
        self.proved_s = time.monotonic()
        self.proof_took_s = self.proved_s - began_s


class Loader:
    """Loads networks by one runtime.

    Args:
        compile_network: Makes a network of a file.
        pick: Chooses that file among those of a version.
    """

    def __init__(self, compile_network: Compile, pick: repository.Pick) -> None:
        # Raises ModelError for what whoever asks could not use.
        self.judge: Judge = lambda _: None
        self._compile = compile_network
        self._pick = pick

    def load(self, folder: Path, served: Loaded | None = None) -> Loaded:
        """Return the network of a folder, warm: the first run of a network is slow.

        Args:
            folder: Of the model.
            served: Comes back where the same files lie behind it.

        Raises:
            ModelError: It cannot be loaded, or does not do what its configuration says.
        """
        stored = repository.read(folder, self._pick)
        self.judge(stored.model)
        try:
            origin = stored, watching.stamps_of(stored.path.parent)
        except OSError as error:
            raise ModelError(f"{stored.path.name} cannot be read: {error.strerror}") from error
        if served is not None and served.origin == origin:
            return served
        loaded = Loaded(stored.model, self._compile(stored.path), origin)
        try:
            repository.require_match(stored.model.inputs, loaded.network.inputs, kind="input")
            repository.require_match(stored.model.outputs, loaded.network.outputs, kind="output")
            loaded.prove()
        except ModelError:
            loaded.network.close()
            raise
        return loaded
