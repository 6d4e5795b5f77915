"""Ask a second model about some of the pictures, after the answer, and compare.

Nobody waits for it, and it waits for everybody: it works only in moments when no request does, is
bounded, and what finds no such moment is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from service.admission import Admission
from service.catalogue import Catalogue
from service.errors import Code, GatewayError, ServiceError, VersionGoneError
from service.executors.executor import Model, Outputs
from service.ledger import Ledger
from service.load import Load, Part
from service.metrics import Metrics
from service.pipeline import Picture, Pipeline
from service.routing import Router
from service.shadow_metrics import ShadowMetrics
from service.tasks.task import Seen, Task

logger = logging.getLogger(__name__)

# Each holds a picture in memory.
AT_ONCE: Final = 2
# The answer goes out first.
_AFTER_S: Final = 0.02
_PATIENCE_S: Final = 5.0
_LONGEST_S: Final = 30.0


@dataclass(frozen=True)
class Live:
    """A request that was answered.

    Args:
        model: Who answered.
        data: The picture as it came.
        picture: What the network took of it.
        outputs: What the network gave.
    """

    model: Model
    data: bytes
    picture: Picture
    outputs: Outputs


class _NoMomentError(ServiceError):
    """The service was busy all the time."""


class Shadows:
    """Asks second models.

    Args:
        router: Says who is to be asked about what.
        catalogue: Has the models.
        pipeline: Asks them.
        admission: Knows whether anybody would wait for it.
        metrics: Where what comes of it is registered.
    """

    def __init__(
        self,
        router: Router,
        catalogue: Catalogue,
        pipeline: Pipeline,
        admission: Admission,
        metrics: Metrics,
    ) -> None:
        self._router = router
        self._catalogue = catalogue
        self._pipeline = pipeline
        self._admission = admission
        self._metrics = ShadowMetrics(metrics.registry)
        self._running: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._patience_s = _PATIENCE_S
        self._complaint = ""

    def consider(self, task: Task[Any, Any], live: Live, ledger: Ledger) -> None:
        """Compare an answer later, if it is among those that are compared and there is room.

        Args:
            task: What was asked for.
            live: What was answered.
            ledger: The time of the request.
        """
        if (shadow := self._router.shadow(live.model.name)) is None:
            return
        if len(self._running) >= AT_ONCE:
            self._metrics.count(live.model.name, shadow, "dropped")
            return
        comparing = self._compare(task, shadow, live, ledger.stages_s()["infer"])
        # What is logged and traced there is not the request's.
        running = contextvars.Context().run(asyncio.create_task, comparing)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Give up what runs."""
        for running in self._running:
            running.cancel()

    async def _compare(self, task: Task[Any, Any], shadow: str, live: Live, infer_s: float) -> None:
        outcome = "dropped"
        try:
            await asyncio.sleep(_AFTER_S)
            measures, took_s = await self._ask(task, shadow, live)
            self._metrics.compared(live.model.name, shadow, measures, (infer_s, took_s))
            outcome = "ok"
        except (_NoMomentError, VersionGoneError):
            pass
        except (ServiceError, IndexError) as error:
            # Outputs of a broken network may name classes that there are not.
            if not (isinstance(error, GatewayError) and error.code is Code.OVERLOADED):
                outcome = "failed"
                self._complain(f"the shadow {shadow} of {live.model.name} failed: {error}")
        finally:
            self._metrics.count(live.model.name, shadow, outcome)

    async def _ask(
        self, task: Task[Any, Any], shadow: str, live: Live
    ) -> tuple[dict[str, float], float]:
        """Return how far the two agree, and how long the second network took."""
        model = self._catalogue.target(task.name, shadow)
        ledger = Ledger(_LONGEST_S)
        picture = await self._picture(model, live, ledger)
        async with self._turn:
            await self._moment()
            outputs = await self._pipeline.infer(model, picture.images, [], ledger)
        one = Seen(live.outputs, live.picture.view, live.model.card.labels)
        other = Seen(outputs, picture.view, model.card.labels)
        measures = await self._pipeline.finish(lambda: task.compare(one, other), ledger)
        return measures, ledger.stages_s()["infer"]

    async def _picture(self, model: Model, live: Live, ledger: Ledger) -> Picture:
        if model.card.preprocessing == live.model.card.preprocessing:
            return live.picture
        await self._moment()
        return await self._pipeline.picture(live.data, model, Part(Load(), 0.0, 0.0), ledger)

    async def _moment(self) -> None:
        """Wait until nobody would wait for us.

        Raises:
            _NoMomentError: There was no such moment.
        """
        end_s = time.monotonic() + self._patience_s
        while not self._admission.is_idle:
            if time.monotonic() > end_s:
                raise _NoMomentError
            await asyncio.sleep(_AFTER_S)

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            logger.warning("%s", why)
        self._complaint = why
