"""A gateway that follows a repository, which a test publishes into."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np

from compress.plan.repository import publish
from contract import labels
from service.errors import ModelError
from service.executors import choice
from service.executors.embedded import EmbeddedExecutor
from service.executors.executor import Images, Outputs
from service.executors.loading import Network
from service.gateway import Gateway
from service.settings import Settings
from tests import bundles

CHECK_S = 0.03
DRAIN_S = 0.06
BLACK = np.zeros((1, bundles.SIZE_PX, bundles.SIZE_PX, 3), np.uint8)


def released(tmp_path: Path, number: int, name: str = "colours", size_px: int = 8) -> None:
    """Publish a version whose labels say which one it is."""
    card = bundles.colour_card(size_px=size_px)
    named = labels.inline([f"{colour} {number}" for colour in bundles.COLOURS])
    graph = bundles.colour_graph(size_px=size_px)
    bundle = tmp_path / f"bundle-{name}-{number}"
    bundles.write_bundle(bundle, graph, dataclasses.replace(card, labels=named))
    publish(bundle, tmp_path / "models", name)


@contextlib.asynccontextmanager
async def following(
    repository: Path,
    compile_network: Callable[[Path], Network] | None = None,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[tuple[Gateway, EmbeddedExecutor]]:
    make = compile_network or choice.RUNTIMES["onnxruntime"]()
    executor = EmbeddedExecutor("test", make, repository, check_s=CHECK_S, drain_s=drain_s)
    gateway = Gateway(executor, Settings(decode_threads=1, deadline_s=30))
    watching = asyncio.create_task(gateway.watch())
    try:
        yield gateway, executor
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        gateway.close()
        assert watching.cancelled()


async def looks(count: int = 4) -> None:
    """Let the executor look at its repository some times."""
    await asyncio.sleep(count * CHECK_S * 1.5)


def version(gateway: Gateway, name: str = "colours") -> int:
    return gateway.models[name].version if name in gateway.models else 0


class Frail:
    """A real network that fails on demand, as one on a GPU may."""

    def __init__(self, path: Path) -> None:
        self._real = choice.RUNTIMES["onnxruntime"]()(path)
        self.inputs, self.outputs = self._real.inputs, self._real.outputs
        self.error: ModelError | None = None
        self.runs = 0

    def run(self, images: Images) -> Outputs:
        self.runs += 1
        if self.error is not None:
            raise self.error
        return self._real.run(images)

    def close(self) -> None:
        self._real.close()
