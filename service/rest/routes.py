"""The routes. Each parses, calls the gateway and returns; none holds a rule."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse

from service.gateway import Gateway
from service.rest import inference, schema
from service.rest.answers import ClassifyAnswer, ModelsAnswer, Readiness
from service.rest.body import Body
from service.rest.query import ClassifyQuery
from service.settings import Settings

router = APIRouter()


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


GatewayDep = Annotated[Gateway, Depends(_gateway)]
SettingsDep = Annotated[Settings, Depends(_settings)]


@router.post(
    "/v1/classify",
    tags=["inference"],
    summary="Say what a picture shows",
    openapi_extra={"requestBody": schema.PICTURE_BODY},
    responses=schema.CLASSIFY_RESPONSES,
)
async def classify(
    request: Request,
    response: Response,
    gateway: GatewayDep,
    settings: SettingsDep,
    query: Annotated[ClassifyQuery, Query()],
) -> ClassifyAnswer:
    """Classify one picture: JPEG, PNG or WebP, as the body itself or in a form.

    EXIF orientation is applied, transparency is laid on white, and of an animation the first
    frame counts.
    """
    body = Body(request, settings.max_body_bytes)
    work = gateway.classify(query.model, body.picture, query.top_k, inference.ledger(request))
    result = await body.until_disconnect(work)
    response.headers[inference.HEADER] = inference.server_timing(result.timings_ms)
    return ClassifyAnswer.of(result)


@router.get("/v1/models", tags=["inference"], summary="List the models")
async def models(gateway: GatewayDep, settings: SettingsDep) -> ModelsAnswer:
    """Say what each model is, how accurate it is, and whether it can be asked."""
    return ModelsAnswer.of(gateway, settings)


@router.get(
    "/healthz",
    tags=["operation"],
    summary="Is the process alive?",
    response_class=PlainTextResponse,
)
async def healthz() -> str:
    """Answer as long as the event loop turns."""
    return "ok\n"


@router.get(
    "/readyz",
    tags=["operation"],
    summary="Can pictures be sent?",
    responses={503: {"model": Readiness, "description": "The default model is unavailable."}},
)
async def readyz(gateway: GatewayDep, response: Response) -> Readiness:
    """Answer 200 when the default model is loaded and has run once.

    Other models may be unavailable; the answer says which.
    """
    ready = gateway.default in gateway.models
    response.status_code = 200 if ready else 503
    return Readiness(
        ready=ready,
        models={
            **dict.fromkeys(gateway.models, "ready"),
            **dict.fromkeys(gateway.unavailable, "unavailable"),
        },
    )


@router.get(
    "/metrics",
    tags=["operation"],
    summary="Read the metrics, for Prometheus",
    response_class=PlainTextResponse,
)
async def metrics(gateway: GatewayDep) -> Response:
    """Return request counts and a histogram for each stage."""
    return Response(gateway.metrics.render(), media_type=gateway.metrics.content_type)
