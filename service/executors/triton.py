"""Ask a Triton server over gRPC. Its models are found there, watched, and taken up as they change.

Triton reports ready while the worker of a model is dead, so a model counts as ready only when it
has just answered a picture.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import Code, GatewayError, ModelError, ServiceError, VersionGoneError
from service.executors import repository, triton_wire
from service.executors.alarm import Alarm
from service.executors.executor import Images, Judge, Model, Outputs, TensorSpec
from service.executors.triton_memory import Regions
from service.observe import trace

logger = logging.getLogger(__name__)

# While something is amiss it is looked at this often, however long the period.
_AMISS_S = 1.0
_INFER = "inference.GRPCInferenceService/ModelInfer"


class TritonExecutor:
    """The models of one Triton server, over one channel.

    Nothing is known before :meth:`watch` runs, and nothing can be asked after it ended.

    Args:
        url: Host and port of Triton's gRPC.
        concurrency: How many calls run at once; Triton batches them.
        timeout_s: Longest time of one call. The gateway ends a call earlier by cancelling it,
            which Triton is told.
        check_s: Time between two looks at the models.
        region_bytes: Shared memory of each call, on a Triton of this machine; 0 for none.
    """

    name = "triton"
    discovers = True

    def __init__(
        self,
        url: str,
        *,
        concurrency: int,
        timeout_s: float,
        check_s: float,
        region_bytes: int = 0,
    ) -> None:
        self.concurrency = concurrency
        self.models: dict[str, Model] = {}
        self.unavailable: dict[str, str] = {}
        self.behind: dict[str, str] = {}
        self.down: str | None = f"The Triton server at {url} has not been asked yet."
        self._url = url
        self._timeout_s = timeout_s
        self._check_s = check_s
        self._stub: Any = None
        self._regions = Regions(concurrency if region_bytes else 0, region_bytes)
        self._changed: Callable[[], None] = lambda: None
        self._answered_s: dict[str, float] = {}
        self._looking = asyncio.Lock()
        self._alarm = Alarm()

    async def watch(
        self,
        changed: Callable[[], None],
        judge: Judge,  # noqa: ARG002 - Triton has replaced the old one already
    ) -> None:
        """Look after the models until cancelled.

        Args:
            changed: Called when :attr:`models`, :attr:`unavailable` or :attr:`down` changed.
            judge: Of no use here.
        """
        self._changed = changed
        async with grpc.aio.insecure_channel(self._url, options=triton_wire.CHANNEL) as channel:
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while True:
                await self._look()
                amiss = self.down is not None or bool(self.unavailable)
                await self._alarm.pause(min(self._check_s, _AMISS_S) if amiss else self._check_s)

    async def infer(
        self,
        model: str,
        images: Images,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Run one batch.

        Raises:
            ModelError: Triton or the network failed.
            VersionGoneError: Triton no longer serves that version; :attr:`models` is up to date.
            GatewayError: Triton cannot be reached, is full, or took too long.
        """
        asked = self.models.get(model)
        if asked is None or version not in (None, asked.version):
            raise VersionGoneError(f"version {version} of {model!r} is no longer served")
        try:
            with trace.calling(_INFER, self._url) as metadata:
                answer = await self._ask(asked, images, timeout_s, metadata)
        except VersionGoneError:
            async with self._looking:
                # Many requests notice at once; the first looks for them all.
                if self.models.get(model) == asked:
                    await self._find()
            raise
        except ServiceError as error:
            if not _says_nothing(error):
                self._alarm.ring()
            raise
        self._answered_s[model] = time.monotonic()
        return answer

    def close(self) -> None:
        """Give shared memory back; the channel ends with :meth:`watch`."""
        self._regions.close()

    async def _look(self) -> None:
        async with self._looking:
            await self._find()

    async def _find(self) -> None:
        """Find out which models can be asked now."""
        try:
            versions = await self._versions()
        except ServiceError as error:
            self._regions.forget()
            known = {*self.models, *self.unavailable}
            self._set({}, dict.fromkeys(known, str(error)), str(error))
            return
        await self._regions.announce(self._stub, self._timeout_s)
        found = await asyncio.gather(*(self._judge(n, v) for n, v in versions.items()))
        results = dict(zip(versions, found, strict=True))
        models = {name: one for name, one in results.items() if isinstance(one, Model)}
        reasons = {name: one for name, one in results.items() if isinstance(one, str)}
        self._set(models, reasons, None)

    def _set(self, models: dict[str, Model], unavailable: dict[str, str], down: str | None) -> None:
        if (models, unavailable, down) == (self.models, self.unavailable, self.down):
            return
        for name in sorted({*models} - {n for n, m in self.models.items() if m == models.get(n)}):
            logger.info("model %s version %d is ready", name, models[name].version)
        for name, why in sorted(unavailable.items()):
            if name not in self.unavailable:
                logger.warning("model %s is unavailable: %s", name, why)
        if down is not None and down != self.down:
            logger.warning("%s", down)
        self.models, self.unavailable, self.down = models, unavailable, down
        self._changed()

    async def _versions(self) -> dict[str, int | str]:
        """Return the newest ready version of each model, or why it has none."""
        try:
            index = await self._stub.RepositoryIndex(
                service_pb2.RepositoryIndexRequest(), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            if triton_wire.is_away(error):
                raise triton_wire.unreachable(self._url) from error
            raise ModelError(
                f"Triton at {self._url} does not list its models: {error.details()}"
            ) from error
        versions: dict[str, int | str] = {}
        for entry in index.models:
            before = versions.get(entry.name, 0)
            if entry.state == "READY":
                newest = before if isinstance(before, int) else 0
                versions[entry.name] = max(newest, int(entry.version))
            elif not isinstance(before, int) or not before:
                why = entry.reason or entry.state or "it is not loaded"
                versions[entry.name] = f"Triton has not loaded it: {why}"
        return versions

    async def _judge(self, name: str, version: int | str) -> Model | str:
        """Return a model that has just answered, or why it cannot be asked."""
        if isinstance(version, str):
            return version
        began_s = time.monotonic()
        try:
            model = await self._describe(name, version)
            await self._try(model)
        except GatewayError as error:
            # Busy is not broken: real requests were answered while this one waited.
            if _says_nothing(error) and self._answered_s.get(name, 0.0) >= began_s:
                return self.models.get(name, error.detail)
            return error.detail
        except ModelError as error:
            return str(error)
        return model

    async def _describe(self, name: str, version: int) -> Model:
        request = service_pb2.ModelConfigRequest(name=name, version=str(version))
        try:
            answer = await self._stub.ModelConfig(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            unknown = ModelError(f"Triton does not say what it is: {error.details()}")
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            raise (triton_wire.late(name) if late else unknown) from error
        return repository.describe(name, version, answer.config)

    async def _try(self, model: Model) -> None:
        """Ask for one black picture and compare what comes with what is promised."""
        size = model.card.preprocessing
        outputs = await self._ask(model, np.zeros((1, size.height, size.width, 3), np.uint8))
        found = [
            TensorSpec(name, values.dtype.name, values.shape) for name, values in outputs.items()
        ]
        repository.require_match(model.outputs, found, kind="output")

    async def _ask(
        self,
        model: Model,
        images: Images,
        timeout_s: float | None = None,
        metadata: trace.Metadata = None,
    ) -> Outputs:
        if self._stub is None:
            raise triton_wire.unreachable(self._url)
        timeout_s = timeout_s or self._timeout_s
        try:
            with self._regions.lend(images) as region:
                try:
                    return await self._send(model, images, region, timeout_s, metadata)
                except grpc.aio.AioRpcError as error:
                    if region is None or not triton_wire.lacks_region(error):
                        raise
            # Triton was restarted so quickly that nobody noticed.
            self._regions.forget()
            self._alarm.ring()
            return await self._send(model, images, None, timeout_s, metadata)
        except grpc.aio.AioRpcError as error:
            raise triton_wire.failure(self._url, model, error) from error

    async def _send(
        self,
        model: Model,
        images: Images,
        region: str | None,
        timeout_s: float,
        metadata: trace.Metadata,
    ) -> Outputs:
        request = triton_wire.request(model.name, model.version, images, region)
        response = await self._stub.ModelInfer(request, timeout=timeout_s, metadata=metadata)
        return triton_wire.outputs(response)


def _says_nothing(error: ServiceError) -> bool:
    """Whether an error may come from load alone."""
    return isinstance(error, GatewayError) and error.code in (
        Code.OVERLOADED,
        Code.DEADLINE_EXCEEDED,
    )
