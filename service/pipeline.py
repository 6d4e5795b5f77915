"""The stages of one picture: decoded, preprocessed, through the network, made a prediction."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

from contract.errors import ImageError
from contract.glance import glance
from contract.opening import read_header
from contract.preprocess import Preprocessing, decode_to_fit, fit_decoded, pixels_to_decode
from contract.view import View
from service.admission import Admission
from service.errors import Code, GatewayError, ModelError, VersionGoneError, of_image
from service.executors.executor import Executor, Images, Model, Outputs
from service.ledger import Ledger
from service.load import Part
from service.metrics import Metrics
from service.settings import Settings
from service.tasks.task import Asked, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")
OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Picture:
    """What a network takes of one picture.

    Args:
        images: [1, h, w, 3].
        view: What of the picture that is.
    """

    images: Images
    view: View


class Pipeline:
    """Does the work, each kind in threads of its own.

    Args:
        executor: Runs the networks.
        settings: Limits.
        admission: Learns how long everything takes.
        metrics: Hears what waits, and of every batch.
    """

    def __init__(
        self, executor: Executor, settings: Settings, admission: Admission, metrics: Metrics
    ) -> None:
        self._executor = executor
        self._max_pixels = settings.max_pixels
        self._admission = admission
        self._metrics = metrics
        self._decoding = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        # Of their own: what has been through the network shall not wait behind what has not, and
        # the size of a picture shall be known before its turn comes.
        self._finishing = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="finish")
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._turns = asyncio.Semaphore(executor.concurrency)

    async def picture(self, data: bytes, model: Model, part: Part, ledger: Ledger) -> Picture:
        """Decode and preprocess one picture.

        Raises:
            GatewayError: It is none, or too many are before it.
        """
        form = model.card.preprocessing
        try:
            if self._admission.is_busy:
                await self._look(data, form, part, ledger)
            picture, pixels, seconds = await self._on(
                self._decoding, lambda: self._decode(data, form, ledger), ledger
            )
        except ImageError as error:
            raise of_image(error) from error
        self._admission.estimates.decoded(pixels, seconds)
        part.is_decoded()
        return picture

    async def infer(
        self, model: Model, images: Images, parts: list[Part], ledger: Ledger
    ) -> Outputs:
        """Run one batch.

        Args:
            model: Which network.
            images: [b, h, w, 3].
            parts: The b pictures of the batch, which are done then.
            ledger: Of the request.

        Raises:
            GatewayError: The network failed, or what runs it.
            VersionGoneError: The version was replaced meanwhile.
        """
        has_turn = self._metrics.waits("infer")
        try:
            with ledger.stage("queue"):
                await self._turns.acquire()
        finally:
            has_turn()
        left_s = ledger.left_s()
        timeout_s = None if math.isinf(left_s) else left_s
        try:
            with ledger.stage("infer") as span:
                outputs = await self._executor.infer(model.name, images, model.version, timeout_s)
        except VersionGoneError:
            raise
        except ModelError as error:
            logger.exception("model %s failed", model.name)
            raise GatewayError(
                Code.INTERNAL, f"The network of {model.name!r} failed; the log says why."
            ) from error
        finally:
            self._turns.release()
            for part in parts:
                part.is_done()
        self._admission.estimates.inferred(model.name, len(images), span.seconds())
        self._metrics.batch(model.name, len(images))
        return outputs

    async def predict(
        self,
        task: Task[OptionsT, ResultT],
        outputs: Outputs,
        asked: Asked[OptionsT],
        ledger: Ledger,
    ) -> ResultT:
        """Make a prediction of what a network gave.

        Raises:
            GatewayError: As the task says.
        """
        if task.quick:
            with ledger.stage("postprocess"):
                return task.predict(outputs, asked)
        given_up = threading.Event()
        heard = Asked(asked.labels, asked.view, asked.options, given_up.is_set)

        def work() -> ResultT:
            with ledger.stage("postprocess"):
                return task.predict(outputs, heard)

        try:
            return await self._on(self._finishing, work, ledger)
        finally:
            # Work that has begun cannot be cancelled from outside.
            given_up.set()

    async def finish(self, work: Callable[[], T], ledger: Ledger) -> T:
        """Do what comes after a prediction, on the threads that make them."""
        return await self._on(self._finishing, work, ledger)

    def close(self) -> None:
        """End the threads. Requests have ended by then."""
        for threads in (self._decoding, self._finishing, self._looking):
            threads.shutdown(cancel_futures=True)

    async def _look(self, data: bytes, form: Preprocessing, part: Part, ledger: Ledger) -> None:
        """Read the size of a picture that would have to wait, and refuse it if that is too long."""
        header = glance(data)
        # Only a whole look may refuse.
        if header is None or math.prod(header.size_px) > self._max_pixels:
            header = await self._on(
                self._looking, lambda: read_header(data, max_pixels=self._max_pixels), ledger
            )
        decode_s = self._admission.estimates.decode_s(pixels_to_decode(header, form))
        part.expect(decode_s, part.infer_s)
        self._admission.require_time(part, ledger.left_s())

    def _decode(
        self, data: bytes, form: Preprocessing, ledger: Ledger
    ) -> tuple[Picture, float, float]:
        """Return the picture, how many pixels were decoded for it, and the seconds it took."""
        with ledger.stage("decode") as decoding:
            decoded = decode_to_fit(data, form, max_pixels=self._max_pixels)
        with ledger.stage("preprocess") as fitting:
            picture = Picture(fit_decoded(decoded, form)[None], View.of(decoded.size_px, form))
        return picture, decoded.pixels, decoding.seconds() + fitting.seconds()

    async def _on(self, threads: ThreadPoolExecutor, work: Callable[[], T], ledger: Ledger) -> T:
        """Do on a pool what holds a processor for milliseconds."""
        waiting = ledger.begin("queue")
        has_thread = self._metrics.waits("postprocess" if threads is self._finishing else "decode")

        def begun() -> T:
            waiting.end()
            has_thread()
            return work()

        # What is logged there bears the id of the request.
        context = copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, context.run, begun)
        finally:
            has_thread()
