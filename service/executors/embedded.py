"""Run the networks of a repository in this process, and follow the repository.

One executor for every runtime: openvino.py and onnxruntime.py compile ONNX files for the CPU,
tensorrt.py loads plans on a GPU.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from service.errors import ModelError, StartError, VersionGoneError
from service.executors import repository
from service.executors.aside import aside, finish
from service.executors.executor import Images, Judge, Model, Outputs
from service.executors.loading import Compile, Lanes, Loaded, Loader
from service.executors.proving import Proofs
from service.executors.shelf import Shelf
from service.executors.watching import Watcher

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a stop waits for a network that is being loaded, which cannot be interrupted.
_PATIENCE_S: Final = 1.0


class EmbeddedExecutor:
    """Load every model of a repository and run them, one batch at a time.

    A model that cannot be loaded is listed in :attr:`unavailable` and does not stop the others.

    While :meth:`watch` runs, models come, change and go with their folders. A new version is loaded
    and run once in a thread of its own, then it takes the place of the old one, which still answers
    what was made for it; where the new one cannot be loaded, the old one stays. And each model
    proves from time to time that it answers, unless requests have shown it.

    Args:
        name: The runtime's name.
        compile_network: Makes a network of a file.
        folder: The repository.
        pick: Chooses that file among those of a version.
        check_s: Time between two looks at the repository.
        drain_s: How long a request may take that was made for a version.

    Raises:
        StartError: There is no repository, or no model in it.
    """

    # Of networks that spread one batch over all processors, or over the GPU, a second run at once
    # only slows both.
    concurrency = 1
    discovers = False

    def __init__(
        self,
        name: str,
        compile_network: Compile,
        folder: Path,
        pick: repository.Pick = repository.onnx_file,
        *,
        check_s: float = 5.0,
        drain_s: float = 2.0,
    ) -> None:
        self.name = name
        if isinstance(compile_network, Lanes):
            self.concurrency = compile_network.count
        self.models: dict[str, Model] = {}
        self.unavailable: dict[str, str] = {}
        self.behind: dict[str, str] = {}
        self._loader = Loader(compile_network, pick)
        self._watcher = Watcher(folder)
        self._check_s = check_s
        self._drain_s = drain_s
        self._shelf = Shelf()
        self._proofs = Proofs(self._shelf, self._run, self._tell, check_s=check_s)
        self._changed: Callable[[], None] = lambda: None
        self._lost: str | None = None
        self._incoming: Loaded | None = None
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="infer")
        for model_folder in self._watcher.look().changed:
            self._begin(model_folder)
        self.models = self._shelf.models()
        self.unavailable = self._shelf.unavailable()

    @property
    def down(self) -> str | None:
        """Why nothing at all can be asked for now; None while something can."""
        return self._proofs.down

    async def watch(self, changed: Callable[[], None], judge: Judge) -> None:
        """Follow the repository, and let the models prove themselves, until cancelled.

        Args:
            changed: Called when :attr:`models`, :attr:`unavailable`, :attr:`behind` or
                :attr:`down` changed.
            judge: Asked of each model that comes before it is loaded.
        """
        self._changed, self._loader.judge = changed, judge
        await asyncio.gather(self._follow(), self._proofs.watch())

    async def infer(
        self,
        model: str,
        images: Images,
        version: int | None = None,
        timeout_s: float | None = None,  # noqa: ARG002 - whoever waits cancels
    ) -> Outputs:
        """Run one batch on the inference thread, so that the event loop stays free.

        Raises:
            ModelError: The network failed.
            VersionGoneError: That version was replaced, too long ago.
        """
        asked = self._shelf.find(model, images, version)
        if asked is None:
            raise VersionGoneError(f"version {version} of {model!r} is no longer served")
        try:
            outputs = await self._run(lambda: asked.network.run(images))
        except ModelError:
            self._proofs.failed(asked)
            raise
        self._proofs.answered(asked)
        return outputs

    def close(self) -> None:
        """Wait for the batch that runs, then drop the networks."""
        self._closing.set()
        finish(_PATIENCE_S)
        self._threads.shutdown(cancel_futures=True)
        incoming = [self._incoming] if self._incoming is not None else []
        for loaded in {*self._shelf.all(), *incoming}:
            loaded.network.close()
        self._shelf.clear()

    def _begin(self, folder: Path) -> None:
        try:
            self._shelf.put(folder.name, self._loader.load(folder))
        except ModelError as error:
            self._shelf.refuse(folder.name, str(error))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._check_s)
            for name in self._shelf.to_retry():
                self._watcher.forget(name)
            try:
                look = await aside(self._watcher.look)
            except (StartError, OSError) as error:
                self._lose(str(error))
                continue
            self._lose(None)
            for folder in look.changed:
                await self._renew(folder)
            for name in look.gone:
                logger.info("model %s is gone from the repository", name)
                await self._retire(self._shelf.drop(name))

    def _lose(self, why: str | None) -> None:
        """Keep all models while the repository is away: it may be mounted again."""
        if why is not None and self._lost is None:
            logger.warning("what is loaded is kept, the repository cannot be read: %s", why)
        elif why is None and self._lost is not None:
            logger.info("the repository can be read again")
        self._lost = why

    async def _renew(self, folder: Path) -> None:
        """Load what a folder holds now, and let it answer in place of what it held before."""
        name = folder.name
        served = self._shelf.loaded.get(name)
        try:
            new = await aside(lambda: self._load(folder, served))
        except ModelError as error:
            self._shelf.refuse(name, str(error))
            self._tell()
            return
        self._incoming = None
        await self._retire(self._shelf.put(name, new))

    def _load(self, folder: Path, served: Loaded | None) -> Loaded:
        """Load in the thread of :func:`aside`, which nobody may be waiting for at the end."""
        try:
            new = self._loader.load(folder, served)
        except ModelError:
            raise
        except Exception as error:
            # Runtimes raise what they like about a file; what is served goes on.
            logger.exception("model %s cannot be loaded", folder.name)
            raise ModelError(f"loading it failed: {error}") from error
        self._incoming = new
        if self._closing.is_set():
            new.network.close()
        return new

    async def _retire(self, old: Loaded | None) -> None:
        """Let a network answer what was made for it, then close it.

        The next one is loaded afterwards: at any time memory is needed for one more than is served.
        """
        self._tell()
        if old is None:
            return
        await asyncio.sleep(self._drain_s)
        self._shelf.draining.remove(old)
        # Batches take turns: after these, none of it is left to begin. Those that still run, where
        # several run at once, hold what they need.
        await asyncio.gather(*(self._run(lambda: None) for _ in range(self.concurrency)))
        await aside(old.network.close)

    def _tell(self) -> None:
        """Say what can be asked, if that is news."""
        shelf = self._shelf
        models, unavailable, behind = shelf.models(), shelf.unavailable(), shelf.behind()
        if self.down is not None:
            models, unavailable = {}, {**unavailable, **dict.fromkeys(models, self.down)}
        if (models, unavailable, behind) == (self.models, self.unavailable, self.behind):
            return
        for name, why in sorted(unavailable.items()):
            if self.unavailable.get(name) != why:
                logger.warning("model %s is unavailable: %s", name, why)
        self.models, self.unavailable, self.behind = models, unavailable, behind
        self._changed()
