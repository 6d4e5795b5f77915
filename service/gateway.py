"""Answer requests: admission, deadline, timing, metrics. No word of HTTP or gRPC.

A request passes six stages: its bytes are read, decoded, preprocessed, wait for their turn
(`queue`), go through the network (`infer`) and become a prediction (`postprocess`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from contract.errors import ImageError
from contract.preprocess import Preprocessing, decode_to_fit, fit_decoded
from contract.view import View
from service.errors import (
    Code,
    GatewayError,
    GoneError,
    ModelError,
    VersionGoneError,
    WrongTaskError,
    of_image,
)
from service.executors.executor import Executor, Images, Model, Outputs
from service.ledger import Ledger
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import classify, detect, segment
from service.tasks.task import Asked, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")
OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")

TASKS: Final[Mapping[str, Task[Any, Any]]] = {
    task.name: task for task in (classify.TASK, detect.TASK, segment.TASK)
}
PREFERRED_MODEL: Final = "deit-tiny"
_RETRY_AFTER_S: Final = 1

# Where a request's bytes come from: awaited once, after admission.
Source = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class Answer(Generic[ResultT]):
    """The answer to one picture.

    Args:
        model: Who answered.
        version: Which version of it.
        result: The prediction of the task.
        width_px: Width of the upright picture.
        height_px: Its height.
        timings_ms: Milliseconds by stage, and `total`.
    """

    model: str
    version: int
    result: ResultT
    width_px: int
    height_px: int
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class _Picture:
    images: Images
    view: View


class Gateway:
    """Answers requests with the models of one executor.

    Args:
        executor: Runs the networks.
        settings: Limits and defaults.
    """

    def __init__(self, executor: Executor, settings: Settings) -> None:
        self._executor = executor
        self._settings = settings
        self.unavailable: dict[str, str] = {}
        self.models: Mapping[str, Model] = {}
        self.default = settings.default_model or PREFERRED_MODEL
        self.defaults: dict[str, str] = {}
        self.metrics = Metrics(executor.name)
        self._take_up()
        self._threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        # Of their own: what has been through the network shall not wait behind what has not.
        self._finishing = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="finish")
        self._turns = asyncio.Semaphore(executor.concurrency)
        self._admitted = 0
        self._capacity = settings.decode_threads + executor.concurrency + settings.queue_limit

    @property
    def executor_name(self) -> str:
        """What runs the networks."""
        return self._executor.name

    async def watch(self) -> None:
        """Follow the executor's models as they come, change and go, until cancelled."""
        await self._executor.watch(self._take_up)

    async def answer(
        self,
        task: Task[OptionsT, ResultT],
        model: str | None,
        source: Source,
        options: OptionsT,
        ledger: Ledger | None = None,
    ) -> Answer[ResultT]:
        """Say what one picture shows.

        Args:
            task: What to do with it.
            model: Which model to ask; None for the default of the task.
            source: Gives the bytes of the picture.
            options: What the request chose.
            ledger: Gets the time of every stage that is reached; begun by who asks, if given.

        Raises:
            GatewayError: There is no answer; its code says why.
            GoneError: The source said so.
        """
        ledger = ledger or Ledger()
        with self._counted(task.name, model), self._admission():
            target = self._target(task.name, model)
            data = await self._read(source, ledger)
            answer = self._answer_newest(task, target, data, options, ledger)
            result = await self._before(self._settings.deadline_s, answer)
        self.metrics.observe(result.model, ledger.stages_s(), ledger.total_s())
        return result

    def refused(self, task: str, model: str | None, outcome: str) -> None:
        """Count a request that a transport refused, so that it never became a call of this class.

        Args:
            task: What it asked for.
            model: Which model it named.
            outcome: The code of the refusal.
        """
        self.metrics.count(self._label(task, model), outcome)

    def close(self) -> None:
        """Let the executor go. Requests have ended by then."""
        for threads in (self._threads, self._finishing):
            threads.shutdown(cancel_futures=True)
        self._executor.close()

    async def _answer_newest(
        self,
        task: Task[OptionsT, ResultT],
        target: Model,
        data: bytes,
        options: OptionsT,
        ledger: Ledger,
    ) -> Answer[ResultT]:
        """Answer; where the version was replaced on the way, begin again with the new one."""
        try:
            return await self._answer(task, target, data, options, ledger)
        except VersionGoneError:
            newer = self._target(task.name, target.name)
            try:
                return await self._answer(task, newer, data, options, ledger)
            except VersionGoneError as error:
                raise GatewayError(
                    Code.MODEL_UNAVAILABLE,
                    f"The model {target.name!r} is being replaced: {error}. Try again.",
                    retry_after_s=_RETRY_AFTER_S,
                ) from error

    async def _answer(
        self,
        task: Task[OptionsT, ResultT],
        target: Model,
        data: bytes,
        options: OptionsT,
        ledger: Ledger,
    ) -> Answer[ResultT]:
        picture = await self._picture(target.card.preprocessing, data, ledger)
        outputs = await self._infer(target, picture.images, ledger)
        given_up = threading.Event()
        asked = Asked(target.card.labels, picture.view, options, given_up.is_set)

        def work() -> ResultT:
            with ledger.stage("postprocess"):
                return task.predict(outputs, asked)

        try:
            result = await self._on(self._finishing, work, ledger)
        finally:
            # Work that has begun cannot be cancelled from outside.
            given_up.set()
        size_px = picture.view.size_px
        return Answer(target.name, target.version, result, *size_px, ledger.timings_ms())

    async def _infer(self, target: Model, images: Images, ledger: Ledger) -> Outputs:
        with ledger.stage("queue"):
            await self._turns.acquire()
        try:
            with ledger.stage("infer"):
                return await self._executor.infer(target.name, images, target.version)
        except VersionGoneError:
            raise
        except ModelError as error:
            logger.exception("model %s failed", target.name)
            raise GatewayError(
                Code.INTERNAL, f"The network of {target.name!r} failed; the log says why."
            ) from error
        finally:
            self._turns.release()

    async def _on(self, threads: ThreadPoolExecutor, work: Callable[[], T], ledger: Ledger) -> T:
        """Do on a pool what holds a processor for milliseconds."""
        waiting = ledger.begin("queue")

        def begun() -> T:
            waiting.end()
            return work()

        return await asyncio.get_running_loop().run_in_executor(threads, begun)

    async def _read(self, source: Source, ledger: Ledger) -> bytes:
        timeout_s = self._settings.read_timeout_s
        with ledger.stage("read"):
            try:
                return await asyncio.wait_for(source(), timeout_s)
            except asyncio.TimeoutError as error:
                raise GatewayError(
                    Code.READ_TIMEOUT, f"The picture did not arrive within {timeout_s:g} s."
                ) from error

    async def _before(self, deadline_s: float, answer: Awaitable[T]) -> T:
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
        def work() -> _Picture:
            with ledger.stage("decode"):
                decoded = decode_to_fit(data, form, max_pixels=self._settings.max_pixels)
            with ledger.stage("preprocess"):
                view = View.of(decoded.size_px, form)
                return _Picture(fit_decoded(decoded, form)[None], view)

        try:
            return await self._on(self._threads, work, ledger)
        except ImageError as error:
            raise of_image(error) from error

    def _target(self, task: str, model: str | None) -> Model:
        if (why := self._executor.down) is not None:
            raise GatewayError(Code.EXECUTOR_UNAVAILABLE, why, retry_after_s=_RETRY_AFTER_S)
        name = model or self.defaults.get(task)
        if name in self.unavailable:
            raise GatewayError(
                Code.MODEL_UNAVAILABLE,
                f"The model {name!r} is unavailable: {self.unavailable[name]}",
            )
        able = ", ".join(n for n, known in self.models.items() if known.card.task == task) or "none"
        if name is None:
            raise GatewayError(Code.UNKNOWN_MODEL, f"There is no model that can {task}.")
        if name not in self.models:
            known = ", ".join(self.models)
            raise GatewayError(
                Code.UNKNOWN_MODEL, f"There is no model {name!r}. There are: {known}."
            )
        found = self.models[name]
        if (does := found.card.task) != task:
            raise WrongTaskError(
                f"The model {name!r} can {does}, it cannot {task}. Models that can: {able}.", does
            )
        return found

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
    def _counted(self, task: str, model: str | None) -> Iterator[None]:
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
            self.metrics.count(self._label(task, model), outcome)

    def _label(self, task: str, model: str | None) -> str | None:
        # A name that no model has must not become a label: clients choose it.
        name = model or self.defaults.get(task)
        return name if name in self.models else None

    def _take_up(self) -> None:
        """Read the executor's models again."""
        self.unavailable = dict(self._executor.unavailable)
        self.models = self._servable()
        known = {*self.models, *self.unavailable}
        # A default that fails for a while stays the default, so that readiness speaks of it.
        if self.default not in known:
            self.default = _default(self.models, self._settings.default_model)
        kept = {task: name for task, name in self.defaults.items() if name in self.unavailable}
        self.defaults = {**_defaults(self.models, self.default), **kept}
        self.metrics.take_up(self.models, self.unavailable)

    def _servable(self) -> dict[str, Model]:
        """Keep the models whose outputs their task can read."""
        servable = {}
        for name, model in sorted(self._executor.models.items()):
            outputs = {spec.name: (spec.dtype, spec.shape) for spec in model.outputs}
            try:
                TASKS[model.card.task].require_outputs(outputs, model.card.labels)
            except ModelError as error:
                self.unavailable[name] = str(error)
            else:
                servable[name] = model
        return servable


def _default(models: Mapping[str, Model], wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    return PREFERRED_MODEL if PREFERRED_MODEL in models else next(iter(models), PREFERRED_MODEL)


def _defaults(models: Mapping[str, Model], default: str) -> dict[str, str]:
    """Return which model answers for each task: the default one, else the first by name."""
    first = {model.card.task: name for name, model in sorted(models.items(), reverse=True)}
    chosen = {models[default].card.task: default} if default in models else {}
    return {**first, **chosen}
