"""The routes of the Open Inference Protocol. Each parses, calls it and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, Header, Request, Response

from service.answer import Source
from service.ledger import Ledger
from service.oip import describe
from service.oip.protocol import OpenInference
from service.rest import inference, oip_answer, oip_schema
from service.rest.oip_body import TensorBody, only_ready
from service.settings import Settings

EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])

router = APIRouter(tags=["open inference protocol"])
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"


@dataclass(frozen=True)
class Target:
    """Which model a request means.

    Args:
        protocol: What answers.
        name: Of the model.
        version: Of it; empty where none is named.
    """

    protocol: OpenInference
    name: str
    version: str


def _protocol(request: Request) -> OpenInference:
    protocol: OpenInference = request.app.state.oip
    return protocol


def _target(request: Request) -> Target:
    path = request.path_params
    return Target(_protocol(request), path["model"], path.get("version", ""))


ProtocolDep = Annotated[OpenInference, Depends(_protocol)]
TargetDep = Annotated[Target, Depends(_target)]


def _of_model(
    method: str, path: str, extra: describe.Json | None = None, **described: Any
) -> Callable[[EndpointT], EndpointT]:
    """Serve something of a model, and of each of its versions."""

    def serve(endpoint: EndpointT) -> EndpointT:
        for prefix, parameters in ((_MODEL, ["model"]), (_VERSION, ["model", "version"])):
            router.add_api_route(
                f"{prefix}{path}",
                endpoint,
                methods=[method],
                openapi_extra={**oip_schema.parameters(parameters), **(extra or {})},
                **described,
            )
        return endpoint

    return serve


@router.get("/v2", summary="Describe the server")
async def server() -> describe.Json:
    """Say its name, its version, and what it offers beyond the protocol."""
    return describe.server()


@router.get("/v2/health/live", summary="Is the process alive?")
async def live() -> dict[str, bool]:
    """Answer as long as the event loop turns."""
    return {"live": True}


@router.get("/v2/health/ready", summary="Can pictures be sent?", responses=oip_schema.NOT_READY)
async def ready(protocol: ProtocolDep, response: Response) -> dict[str, bool]:
    """Answer 200 when the default model can be asked."""
    response.status_code = 200 if protocol.ready else 503
    return {"ready": protocol.ready}


@router.post(
    "/v2/repository/index",
    summary="List the models",
    openapi_extra=oip_schema.INDEX_BODY,
    responses=oip_schema.REFUSED,
)
async def index(protocol: ProtocolDep, request: Request) -> list[describe.Json]:
    """List every model; with `"ready": true` only those that can be asked."""
    return protocol.index(ready=await only_ready(request))


@router.get("/v2/models/stats", summary="Count the requests of every model")
async def every_statistics(protocol: ProtocolDep) -> describe.Json:
    """Say how often each model was asked through this protocol, and how long it took."""
    return {"model_stats": protocol.statistics()}


@_of_model("GET", "", summary="Describe a model", responses=oip_schema.UNKNOWN)
async def metadata(target: TargetDep) -> describe.Json:
    """Say what it takes and gives. Beside what it takes, encoded pictures are taken as BYTES."""
    return target.protocol.metadata(target.name, target.version)


@_of_model("GET", "/ready", summary="Can a model be asked?", responses=oip_schema.UNKNOWN)
async def model_ready(target: TargetDep, response: Response) -> dict[str, Any]:
    """Answer 200 when it can."""
    is_ready = target.protocol.is_ready(target.name, target.version)
    response.status_code = 200 if is_ready else 503
    return {"name": target.name, "ready": is_ready}


@_of_model("GET", "/config", summary="Read the configuration", responses=oip_schema.UNKNOWN)
async def config(target: TargetDep) -> describe.Json:
    """Say it in Triton's form; the card is a parameter."""
    return target.protocol.config(target.name, target.version)


@_of_model("GET", "/stats", summary="Count the requests of a model", responses=oip_schema.UNKNOWN)
async def statistics(target: TargetDep) -> describe.Json:
    """Say how often it was asked through this protocol, and how long it took."""
    return {"model_stats": target.protocol.statistics(target.name, target.version)}


@_of_model(
    "POST",
    "/infer",
    oip_schema.REQUEST_BODY,
    summary="Run a network",
    response_class=Response,
    responses=oip_schema.INFERRED,
)
async def infer(
    target: TargetDep,
    request: Request,
    timeout_s: Annotated[
        float | None,
        Header(
            alias=inference.TIMEOUT,
            gt=0,
            description="Seconds after which the client no longer waits.",
        ),
    ] = None,
) -> Response:
    """Run it on a batch: tensors in, tensors out, no labels.

    Tensors stand in the JSON, or as bytes behind it.
    """
    settings: Settings = request.app.state.settings
    ledger = inference.ledger(request) or Ledger()
    if timeout_s is not None:
        ledger.limit(timeout_s - ledger.total_s())
    body = TensorBody(request, settings.max_tensor_bytes)
    source = Source(body.request, body.most_bytes)
    work = target.protocol.infer(target.name, target.version, source, ledger)
    inferred = await body.until_disconnect(work)
    return await oip_answer.respond(inferred, body.asked)
