"""gpusq.v1.Vision. Each method parses, calls the gateway and returns; none holds a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import grpc

from service import parameters
from service.answer import Answer, Source
from service.cards import ModelsAnswer
from service.catalogue import TASKS
from service.errors import Code, GatewayError
from service.gateway import Gateway
from service.parameters import ClassifyParameters, DetectParameters, SegmentParameters
from service.rpc import answers, call
from service.rpc.gpusq.v1 import vision_pb2 as messages
from service.settings import Settings
from service.tasks import classify, detect, segment
from service.tasks.task import Task

OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")
ParametersT = TypeVar("ParametersT", bound=parameters.Parameters)


class Vision:
    """Serves what the networks see.

    Args:
        gateway: What answers.
        settings: Limits and defaults.
    """

    name: Final = "gpusq.v1.Vision"
    asks: Final[Mapping[str, str]] = {task.capitalize(): task for task in TASKS}

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self._gateway = gateway
        self._settings = settings

    def install(self, server: grpc.aio.Server) -> None:
        """Add its methods to a server."""
        methods: dict[str, tuple[Any, Any]] = {
            "Classify": (self.classify, messages.ClassifyRequest),
            "Detect": (self.detect, messages.DetectRequest),
            "Segment": (self.segment, messages.SegmentRequest),
            "ListModels": (self.list_models, messages.ListModelsRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method, request.FromString, lambda response: response.SerializeToString()
            )
            for name, (method, request) in methods.items()
        }
        handler = grpc.method_handlers_generic_handler(self.name, handlers)
        server.add_generic_rpc_handlers((handler,))

    async def classify(
        self, request: messages.ClassifyRequest, _context: Any
    ) -> messages.ClassifyResponse:
        """Say what a picture shows."""
        chosen = self._chosen(classify.TASK, ClassifyParameters, request, _given(request, "top_k"))
        options = chosen.options(self._settings)
        return answers.classified(await self._answer(classify.TASK, request, options))

    async def detect(
        self, request: messages.DetectRequest, _context: Any
    ) -> messages.DetectResponse:
        """Find things in a picture."""
        given = _given(request, "min_score", "max_detections")
        given |= _named(messages.Masks, "masks", request.masks)
        chosen = self._chosen(detect.TASK, DetectParameters, request, given)
        return answers.detected(await self._answer(detect.TASK, request, chosen.options()))

    async def segment(
        self, request: messages.SegmentRequest, _context: Any
    ) -> messages.SegmentResponse:
        """Say what each pixel of a picture shows."""
        given = _named(messages.Format, "format", request.format)
        chosen = self._chosen(segment.TASK, SegmentParameters, request, given)
        return answers.segmented(await self._answer(segment.TASK, request, chosen.options()))

    async def list_models(
        self, _request: messages.ListModelsRequest, _context: Any
    ) -> messages.ListModelsResponse:
        """Say what each model is, and whether it can be asked."""
        return answers.models(ModelsAnswer.of(self._gateway, self._settings))

    def _chosen(
        self,
        task: Task[Any, Any],
        kind: type[ParametersT],
        request: Any,
        given: Mapping[str, Any],
    ) -> ParametersT:
        try:
            return parameters.parse(kind, task.name, given)
        except GatewayError as error:
            self._gateway.refused(task.name, request.model or None, error.code.value)
            raise

    async def _answer(
        self, task: Task[OptionsT, ResultT], request: Any, options: OptionsT
    ) -> Answer[ResultT]:
        image: bytes = request.image

        async def picture() -> bytes:
            most = self._settings.max_body_bytes
            if len(image) > most:
                raise GatewayError(
                    Code.TOO_MANY_BYTES,
                    f"A picture may have {most:,} bytes, this one has {len(image):,}. "
                    "Send the picture smaller.",
                )
            return image

        source, ledger = Source(picture, len(image)), call.current().ledger
        return await self._gateway.answer(task, request.model or None, source, options, ledger)


def _given(request: Any, *names: str) -> dict[str, Any]:
    """Return those of the optional fields that a request has."""
    return {name: getattr(request, name) for name in names if request.HasField(name)}


def _named(kind: Any, field: str, value: int) -> dict[str, Any]:
    """Return a choice by the name that REST has for it; a number that has none as it is.

    >>> _named(messages.Masks, "masks", messages.MASKS_RLE)
    {'masks': 'rle'}
    """
    if value == 0:
        return {}
    if value not in kind.values():
        return {field: str(value)}
    return {field: kind.Name(value).removeprefix(f"{kind.DESCRIPTOR.name.upper()}_").lower()}
