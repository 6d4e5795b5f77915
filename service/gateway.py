"""Answer requests: admission, deadline, timing, metrics. No word of HTTP or gRPC.

A request passes six stages: its bytes are read, decoded, preprocessed, wait for their turn
(`queue`), go through the network (`infer`) and become a prediction (`postprocess`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from service.admission import Admission, Place
from service.answer import Answer, Inferred, Source
from service.catalogue import RETRY_AFTER_S, Catalogue, replaced, require_servable
from service.errors import Code, GatewayError, GoneError, VersionGoneError
from service.executors.executor import Executor, Images, Model
from service.ledger import Ledger
from service.load import Part
from service.metrics import TENSORS, Metrics
from service.observe import exchange
from service.pipeline import Pipeline
from service.routing import Router
from service.settings import Settings
from service.shadow import Live, Shadows
from service.tasks.task import Asked, Task
from service.waiting import all_of, within

T = TypeVar("T")
OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")


class Gateway:
    """Answers requests with the models of one executor.

    Args:
        executor: Runs the networks.
        settings: Limits and defaults.
    """

    def __init__(self, executor: Executor, settings: Settings) -> None:
        self._executor = executor
        self._settings = settings
        # Set when a stop is near. What comes is still answered.
        self.leaving = False
        self.metrics = Metrics(executor.name)
        self.metrics.watch(lambda: executor.down is None)
        self._router = Router(settings.routes, settings.repository_check_s)
        self.catalogue = Catalogue(executor, settings.default_model, self.metrics, self._router)
        self._admission = Admission(settings, executor.concurrency, self.metrics)
        self._pipeline = Pipeline(executor, settings, self._admission, self.metrics)
        self._shadows = Shadows(
            self._router, self.catalogue, self._pipeline, self._admission, self.metrics
        )

    @property
    def executor_name(self) -> str:
        """What runs the networks."""
        return self._executor.name

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that can be asked."""
        return self.catalogue.models

    @property
    def unavailable(self) -> Mapping[str, str]:
        """The models that cannot, each with the reason."""
        return self.catalogue.unavailable

    @property
    def default(self) -> str:
        """The model whose readiness is that of the service."""
        return self.catalogue.default

    @property
    def defaults(self) -> Mapping[str, str]:
        """The model that answers for each task where a request names none."""
        return self.catalogue.defaults

    @property
    def ready(self) -> bool:
        """Whether more should come: the default model can be asked, and no stop is near."""
        return self.catalogue.answers(self.default) and not self.leaving

    @property
    def capacity(self) -> int:
        """How many requests are answered at once at most."""
        return self._admission.most_requests

    async def watch(self) -> None:
        """Follow the executor's models as they come, change and go, and the routes."""
        take_up = self.catalogue.take_up
        await asyncio.gather(
            self._executor.watch(take_up, require_servable), self._router.watch(take_up)
        )

    async def answer(
        self,
        task: Task[OptionsT, ResultT],
        model: str | None,
        source: Source[bytes],
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
        model = self.catalogue.real(model, task.name)
        with self._counted(task.name, model):
            target = self.catalogue.target(task.name, model)
            with self._admission.place(target.name, source.most_bytes, ledger.left_s()) as place:
                data = await self._read(source, ledger)
                place.brings(len(data))
                [part] = place.parts

                async def ask(target: Model) -> Answer[ResultT]:
                    return await self._answer(task, target, data, options, (part, ledger))

                result = await self._in_time(self._newest(target, ask), ledger)
        self.metrics.observe(result.model, ledger.stages_s(), ledger.total_s(), task.name)
        exchange.note_version(result.version)
        return result

    async def answer_several(
        self,
        task: Task[OptionsT, ResultT],
        model: str | None,
        source: Source[list[bytes | GatewayError]],
        options: OptionsT,
        ledger: Ledger | None = None,
    ) -> list[Answer[ResultT] | GatewayError]:
        """Say what each of several pictures of one request shows.

        Each has an answer or an error of its own, in their order; they share the deadline.

        Args:
            task: As for :meth:`answer`.
            model: As for :meth:`answer`.
            source: Gives the bytes of each, or why there are none.
            options: As for :meth:`answer`.
            ledger: As for :meth:`answer`.

        Raises:
            GatewayError: There is an answer to none of them; its code says why.
            GoneError: The source said so.
        """
        ledger = ledger or Ledger()
        model = self.catalogue.real(model, task.name)
        # Each picture counts as a request of its own, once it is known how many there are.
        with self._counted(task.name, model, answered=None):
            target = self.catalogue.target(task.name, model)
            with self._admission.place(target.name, source.most_bytes, ledger.left_s()) as place:
                pictures = await self._read(source, ledger)
                place.brings(sum(len(data) for data in pictures if isinstance(data, bytes)))
                place.expect(len(pictures), *self._admission.expected_s(target.name))
                lanes = asyncio.Semaphore(self._settings.decode_threads)
                found = await all_of(
                    self._one_of_several(task, target, data, options, (part, own, lanes))
                    for data, part, own in zip(
                        pictures, place.parts, _branches(ledger, len(pictures)), strict=True
                    )
                )
            failures = [came for came in found if isinstance(came, GatewayError)]
            if [error.code for error in failures] == [Code.DEADLINE_EXCEEDED] * len(found):
                raise failures[0]
        for came in found:
            self._count(task.name, model, "ok" if isinstance(came, Answer) else came.code.value)
        return found

    async def infer(
        self,
        model: str,
        source: Source[Callable[[Model], Images | list[bytes]]],
        ledger: Ledger | None = None,
        version: int | None = None,
    ) -> Inferred:
        """Run a network on one batch, and return what it gives.

        Args:
            model: Which one.
            source: Gives what makes the batch for the model that answers: [b, h, w, 3] uint8, or b
                encoded pictures, which are decoded and preprocessed as for :meth:`answer`.
            ledger: As for :meth:`answer`.
            version: The version that must answer; None for whichever is served.

        Raises:
            GatewayError: There is no answer; its code says why.
            GoneError: The source said so.
        """
        ledger = ledger or Ledger()
        model = self.catalogue.real(model, None) or ""
        with self._counted(None, model):
            target = self.catalogue.find(model, version)
            with self._admission.place(target.name, source.most_bytes, ledger.left_s()) as place:
                batch = (await self._read(source, ledger))(target)

                async def ask(target: Model) -> Inferred:
                    return await self._infer(target, batch, place, ledger)

                result = await self._in_time(self._newest(target, ask), ledger)
        self.metrics.observe(result.model, ledger.stages_s(), ledger.total_s(), TENSORS)
        exchange.note_version(result.version)
        return result

    def require_room(self) -> None:
        """Find out early whether a request would be refused whatever it brings.

        Raises:
            GatewayError: As many are being answered as may be.
        """
        self._admission.require_room()

    def refused(self, task: str | None, model: str | None, outcome: str) -> None:
        """Count a request that a transport refused, so that it never became a call of this class.

        Args:
            task: What it asked for, if that is known.
            model: Which model it named.
            outcome: The code of the refusal.
        """
        self._count(task, self.catalogue.real(model, task), outcome)

    def close(self) -> None:
        """Let the executor go. Requests have ended by then."""
        self._shadows.close()
        self._pipeline.close()
        self._executor.close()

    async def _newest(self, target: Model, ask: Callable[[Model], Coroutine[Any, Any, T]]) -> T:
        """Ask a model; where its version was replaced on the way, begin again with the new one."""
        try:
            return await ask(target)
        except VersionGoneError:
            newer = self.catalogue.target(target.card.task, target.name)
            try:
                return await ask(newer)
            except VersionGoneError as error:
                raise replaced(target.name, error) from error

    async def _one_of_several(
        self,
        task: Task[OptionsT, ResultT],
        target: Model,
        data: bytes | GatewayError,
        options: OptionsT,
        of: tuple[Part, Ledger, asyncio.Semaphore],
    ) -> Answer[ResultT] | GatewayError:
        part, ledger, lanes = of
        if isinstance(data, GatewayError):
            part.is_done()
            return data

        async def ask(target: Model) -> Answer[ResultT]:
            return await self._answer(task, target, data, options, (part, ledger))

        async def in_lane() -> Answer[ResultT]:
            with ledger.stage("queue"):
                await lanes.acquire()
            try:
                return await self._newest(target, ask)
            finally:
                lanes.release()

        try:
            answer = await self._in_time(in_lane(), ledger)
        except GatewayError as error:
            return error
        self.metrics.observe(answer.model, ledger.stages_s(), ledger.total_s(), task.name)
        exchange.note_version(answer.version)
        return answer

    async def _answer(
        self,
        task: Task[OptionsT, ResultT],
        target: Model,
        data: bytes,
        options: OptionsT,
        of: tuple[Part, Ledger],
    ) -> Answer[ResultT]:
        part, ledger = of
        picture = await self._pipeline.picture(data, target, part, ledger)
        outputs = await self._pipeline.infer(target, picture.images, [part], ledger)
        asked = Asked(target.card.labels, picture.view, options)
        result = await self._pipeline.predict(task, outputs, asked, ledger)
        self._shadows.consider(task, Live(target, data, picture, outputs), ledger)
        size_px = picture.view.size_px
        return Answer(target.name, target.version, result, *size_px, ledger.timings_ms())

    async def _infer(
        self, target: Model, batch: Images | list[bytes], place: Place, ledger: Ledger
    ) -> Inferred:
        decode_s, infer_s = self._admission.expected_s(target.name)
        if isinstance(batch, list):
            place.expect(len(batch), decode_s, infer_s)
            pictures = [
                await self._pipeline.picture(data, target, part, ledger)
                for data, part in zip(batch, place.parts, strict=True)
            ]
            batch = np.concatenate([picture.images for picture in pictures])
        else:
            place.expect(len(batch), 0.0, infer_s)
        outputs = await self._pipeline.infer(target, batch, place.parts, ledger)
        return Inferred(target.name, target.version, outputs, ledger.timings_ms())

    async def _read(self, source: Source[T], ledger: Ledger) -> T:
        timeout_s = min(self._settings.read_timeout_s, ledger.left_s())
        with ledger.stage("read"):
            try:
                return await within(timeout_s, source.read())
            except asyncio.TimeoutError as error:
                if ledger.left_s() <= 0:
                    raise _late(ledger) from error
                raise GatewayError(
                    Code.READ_TIMEOUT, f"The picture did not arrive within {timeout_s:g} s."
                ) from error

    async def _in_time(self, answer: Awaitable[T], ledger: Ledger) -> T:
        """Await an answer that nobody waits for after the deadline, at whatever stage it is."""
        ledger.limit(self._settings.deadline_s)
        try:
            return await within(ledger.left_s(), answer)
        except asyncio.TimeoutError as error:
            raise _late(ledger) from error

    def _count(self, task: str | None, model: str | None, outcome: str) -> None:
        label = self.catalogue.label(task, model)
        self.metrics.count(label, outcome, task)
        exchange.note(task or TENSORS, label, outcome)

    @contextmanager
    def _counted(
        self, task: str | None, model: str | None, *, answered: str | None = "ok"
    ) -> Iterator[None]:
        outcome: str | None = Code.INTERNAL.value
        try:
            yield
            outcome = answered
        except GatewayError as error:
            outcome = error.code.value
            raise
        except (asyncio.CancelledError, GoneError):
            outcome = "cancelled"
            raise
        finally:
            if outcome is not None:
                self._count(task, model, outcome)


def _branches(ledger: Ledger, count: int) -> list[Ledger]:
    """Return the time of each of several pictures; that of a single one is the request's."""
    if count == 1:
        return [ledger]
    branches = [ledger.branch() for _ in range(count)]
    for branch in branches:
        exchange.note_picture(branch)
    return branches


def _late(ledger: Ledger) -> GatewayError:
    allowed_s = ledger.allowed_s()
    return GatewayError(
        Code.DEADLINE_EXCEEDED,
        f"There was no answer within {allowed_s:.3g} s. Try again later, allow more time, or send "
        "a smaller picture.",
        retry_after_s=None if math.isinf(allowed_s) else RETRY_AFTER_S,
    )
