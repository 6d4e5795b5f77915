"""Answer requests: admission, deadline, timing, metrics. No word of HTTP or gRPC.

A request passes six stages: its bytes are read, decoded, preprocessed, wait for their turn
(`queue`), go through the network (`infer`) and become a prediction (`postprocess`).
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import Image

from contract.errors import ImageError
from contract.preprocess import FORMATS, Preprocessing, decode, fit
from service.errors import Code, GatewayError, GoneError, ModelError, of_image
from service.executors.executor import Executor, Images, Model
from service.ledger import Ledger
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import classify
from service.tasks.classify import Prediction

logger = logging.getLogger(__name__)

PREFERRED_MODEL: Final = "deit-tiny"
_RETRY_AFTER_S: Final = 1

# Where a request's bytes come from: awaited once, after admission.
Source = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class Classification:
    """The answer to one classified picture.

    Args:
        model: Who answered.
        version: Which version of it.
        predictions: Likeliest classes, best first.
        width_px: Width of the upright picture.
        height_px: Its height.
        timings_ms: Milliseconds by stage, and `total`.
    """

    model: str
    version: int
    predictions: list[Prediction]
    width_px: int
    height_px: int
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class _Picture:
    images: Images
    width_px: int
    height_px: int


class Gateway:
    """Answers requests with the models of one executor.

    Args:
        executor: Runs the networks.
        settings: Limits and defaults.
    """

    def __init__(self, executor: Executor, settings: Settings) -> None:
        self._executor = executor
        self._settings = settings
        self.unavailable = dict(executor.unavailable)
        self.models: Mapping[str, Model] = self._servable()
        self.default = _default(self.models, settings.default_model)
        self.metrics = Metrics(self.models, executor.name)
        self._threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._turns = asyncio.Semaphore(executor.concurrency)
        self._admitted = 0
        self._capacity = settings.decode_threads + executor.concurrency + settings.queue_limit

    @property
    def executor_name(self) -> str:
        """What runs the networks."""
        return self._executor.name

    async def classify(
        self,
        model: str | None,
        source: Source,
        top_k: int | None = None,
        ledger: Ledger | None = None,
    ) -> Classification:
        """Say what one picture shows.

        Args:
            model: Which model to ask; None for the default.
            source: Gives the bytes of the picture.
            top_k: How many classes to name; all of them where the model has fewer.
            ledger: Gets the time of every stage that is reached; begun by who asks, if given.

        Raises:
            GatewayError: There is no answer; its code says why.
            GoneError: The source said so.
        """
        ledger = ledger or Ledger()
        with self._counted(model), self._admission():
            target = self._target(model)
            data = await self._read(source, ledger)
            answer = self._classify(target, data, top_k or self._settings.top_k, ledger)
            result = await self._before(self._settings.deadline_s, answer)
        self.metrics.observe(target.name, ledger.stages_s(), ledger.total_s())
        return result

    def refused(self, model: str | None, outcome: str) -> None:
        """Count a request that a transport refused, so that it never became a call of this class.

        Args:
            model: Which model it named.
            outcome: The code of the refusal.
        """
        self.metrics.count(self._label(model), outcome)

    def close(self) -> None:
        """Let the executor go. Requests have ended by then."""
        self._threads.shutdown(cancel_futures=True)
        self._executor.close()

    async def _classify(
        self, target: Model, data: bytes, top_k: int, ledger: Ledger
    ) -> Classification:
        picture = await self._picture(target.card.preprocessing, data, ledger)
        with ledger.stage("queue"):
            await self._turns.acquire()
        try:
            with ledger.stage("infer"):
                outputs = await self._executor.infer(target.name, picture.images)
        except ModelError as error:
            logger.exception("model %s failed", target.name)
            raise GatewayError(
                Code.INTERNAL, f"The network of {target.name!r} failed; the log says why."
            ) from error
        finally:
            self._turns.release()
        with ledger.stage("postprocess"):
            predictions = classify.predict(outputs, target.card.labels, top_k)
        return Classification(
            target.name,
            target.version,
            predictions,
            picture.width_px,
            picture.height_px,
            ledger.timings_ms(),
        )

    async def _read(self, source: Source, ledger: Ledger) -> bytes:
        timeout_s = self._settings.read_timeout_s
        with ledger.stage("read"):
            try:
                return await asyncio.wait_for(source(), timeout_s)
            except asyncio.TimeoutError as error:
                raise GatewayError(
                    Code.READ_TIMEOUT, f"The picture did not arrive within {timeout_s:g} s."
                ) from error

    async def _before(self, deadline_s: float, answer: Awaitable[Classification]) -> Classification:
        """Await an answer that nobody waits for after the deadline, at whatever stage it is."""
        try:
            return await asyncio.wait_for(answer, deadline_s)
        except asyncio.TimeoutError as error:
            raise GatewayError(
                Code.DEADLINE_EXCEEDED,
                f"There was no answer within {deadline_s:g} s. Try again later, or send a "
                "smaller picture.",
                retry_after_s=_RETRY_AFTER_S,
            ) from error

    async def _picture(self, form: Preprocessing, data: bytes, ledger: Ledger) -> _Picture:
        """Decode and preprocess on the pool: both hold a processor for milliseconds."""
        waiting = ledger.begin("queue")

        def work() -> _Picture:
            waiting.end()
            with ledger.stage("decode"):
                image = decode(
                    data,
                    max_pixels=self._settings.max_pixels,
                    shorter_side_px=form.shorter_side_px,
                )
                width_px, height_px = _size_px(data, image)
            with ledger.stage("preprocess"):
                return _Picture(fit(image, form)[None], width_px, height_px)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ImageError as error:
            raise of_image(error) from error

    def _target(self, model: str | None) -> Model:
        name = model or self.default
        if name in self.models:
            return self.models[name]
        if name in self.unavailable:
            raise GatewayError(
                Code.MODEL_UNAVAILABLE,
                f"The model {name!r} is unavailable: {self.unavailable[name]}",
            )
        known = ", ".join(self.models)
        raise GatewayError(Code.UNKNOWN_MODEL, f"There is no model {name!r}. There are: {known}.")

    @contextmanager
    def _admission(self) -> Iterator[None]:
        """Hold one of the places; whoever finds none is refused before a byte is read."""
        if self._admitted >= self._capacity:
            raise GatewayError(
                Code.OVERLOADED,
                f"{self._admitted} requests are already being answered. Try again in "
                f"{_RETRY_AFTER_S} s.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._admitted += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._admitted -= 1
            self.metrics.in_flight.dec()

    @contextmanager
    def _counted(self, model: str | None) -> Iterator[None]:
        outcome = Code.INTERNAL.value
        try:
            yield
            outcome = "ok"
        except GatewayError as error:
            outcome = error.code.value
            raise
        except (asyncio.CancelledError, GoneError):
            outcome = "cancelled"
            raise
        finally:
            self.metrics.count(self._label(model), outcome)

    def _label(self, model: str | None) -> str | None:
        # A name that no model has must not become a label: clients choose it.
        name = model or self.default
        return name if name in self.models else None

    def _servable(self) -> dict[str, Model]:
        """Keep the models whose outputs their task can read."""
        servable = {}
        for name, model in sorted(self._executor.models.items()):
            outputs = {spec.name: (spec.dtype, spec.shape) for spec in model.outputs}
            try:
                classify.require_scores(outputs, model.card.labels)
            except ModelError as error:
                self.unavailable[name] = str(error)
            else:
                servable[name] = model
        return servable


def _default(models: Mapping[str, Model], wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    return PREFERRED_MODEL if PREFERRED_MODEL in models else next(iter(models), PREFERRED_MODEL)


def _size_px(data: bytes, decoded: Image.Image) -> tuple[int, int]:
    """Return the width and height of the upright picture, which may be decoded at less."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        width, height = header.size
    upright = (width > height) == (decoded.width > decoded.height) or width == height
    return (width, height) if upright else (height, width)
