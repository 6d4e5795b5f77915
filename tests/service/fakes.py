"""The one fake: an executor that answers what a test wants, late or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from service.errors import ModelError
from service.executors.executor import Images, Judge, Model, Outputs, TensorSpec
from tests import bundles


class FakeExecutor:
    """Stands where OpenVINO or Triton stand.

    Args:
        scores: What every picture scores; a colour each.
        models: Names of the models it claims to have.
    """

    name = "fake"
    discovers = False
    down: str | None = None

    def __init__(
        self,
        scores: tuple[float, ...] = (0.7, 0.1, 0.1, 0.1),
        models: tuple[str, ...] = ("colours",),
        concurrency: int = 1,
    ) -> None:
        card = bundles.colour_card()
        size = card.preprocessing
        image = TensorSpec("image", "uint8", (-1, size.height, size.width, 3))
        output = TensorSpec("scores", "float32", (-1, len(card.labels)))
        self.models = {name: Model(name, 3, card, (image,), (output,)) for name in models}
        self.unavailable: dict[str, str] = {}
        self.behind: dict[str, str] = {}
        self.concurrency = concurrency
        self.calls = 0
        self.timeouts_s: list[float | None] = []
        self.cancelled = 0
        self.closed = False
        self.error: ModelError | None = None
        self.gate: asyncio.Event | None = None
        self._scores = scores

    async def watch(self, changed: Callable[[], None], judge: Judge) -> None:
        pass

    async def infer(
        self,
        model: str,
        images: Images,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        self.calls += 1
        self.timeouts_s.append(timeout_s)
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return {"scores": np.tile(np.array(self._scores, np.float32), (len(images), 1))}

    def close(self) -> None:
        self.closed = True


class Never:
    """Stands where a gate stands, and never opens."""

    async def wait(self) -> None:
        await asyncio.Event().wait()
