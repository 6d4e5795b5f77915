"""Run the networks of a repository in this process.

One executor for every runtime: openvino.py and onnxruntime.py compile ONNX files for the CPU,
tensorrt.py loads plans on a GPU.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from service.errors import ModelError
from service.executors import repository
from service.executors.executor import Images, Model, Outputs, TensorSpec

logger = logging.getLogger(__name__)


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
        """Free what it holds."""


# Raises ModelError where the runtime refuses the file.
Compile = Callable[[Path], Network]


class EmbeddedExecutor:
    """Load every model of a repository and run them, one batch at a time.

    A model that cannot be loaded is listed in :attr:`unavailable` and does not stop the others.

    Args:
        name: The runtime's name.
        compile_network: Makes a network of a file.
        folder: The repository.
        pick: Chooses that file among those of a version.

    Raises:
        StartError: There is no repository, or no model in it.
    """

    # A network already spreads one batch over all processors, or over the GPU; a second at once
    # only slows both.
    concurrency = 1
    discovers = False
    down = None

    def __init__(
        self,
        name: str,
        compile_network: Compile,
        folder: Path,
        pick: repository.Pick = repository.onnx_file,
    ) -> None:
        self.name = name
        self.models: dict[str, Model] = {}
        self.unavailable: dict[str, str] = {}
        self._networks: dict[str, Network] = {}
        self._pick = pick
        for model_folder in repository.folders(folder):
            self._load(model_folder, compile_network)
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="infer")

    async def watch(self, changed: Callable[[], None]) -> None:
        """Return: the models were loaded once and stay."""

    async def infer(
        self,
        model: str,
        images: Images,
        version: int | None = None,  # noqa: ARG002 - each model has one version here
        timeout_s: float | None = None,  # noqa: ARG002 - whoever waits cancels
    ) -> Outputs:
        """Run one batch on the inference thread, so that the event loop stays free.

        Raises:
            ModelError: The network failed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._networks[model].run, images)

    def close(self) -> None:
        """Wait for the batch that runs, then drop the networks."""
        self._threads.shutdown(cancel_futures=True)
        for network in self._networks.values():
            network.close()
        self._networks.clear()

    def _load(self, folder: Path, compile_network: Compile) -> None:
        try:
            stored = repository.read(folder, self._pick)
            network = _ready(stored.model, compile_network(stored.path))
        except ModelError as error:
            self.unavailable[folder.name] = str(error)
            return
        self.models[folder.name] = stored.model
        self._networks[folder.name] = network
        logger.info("model %s version %d is ready", folder.name, stored.model.version)


def _ready(model: Model, network: Network) -> Network:
    """Return a network that is warm and does what its configuration says.

    Raises:
        ModelError: It does not.
    """
    try:
        _check(model, network)
    except ModelError:
        network.close()
        raise
    return network


def _check(model: Model, network: Network) -> None:
    """Compare graph and configuration, then run once: the first run of a network is slow."""
    repository.require_match(model.inputs, network.inputs, kind="input")
    repository.require_match(model.outputs, network.outputs, kind="output")
    size = model.card.preprocessing
    outputs = network.run(np.zeros((1, size.height, size.width, 3), np.uint8))
    found = [TensorSpec(name, values.dtype.name, values.shape) for name, values in outputs.items()]
    repository.require_match(model.outputs, found, kind="output")
