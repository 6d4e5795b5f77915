"""The routes. Each parses, calls the gateway and returns; none holds a rule."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute

from service.cards import ModelsAnswer, Readiness
from service.gateway import Gateway
from service.metrics import OPEN_METRICS, TEXT
from service.parameters import ClassifyParameters, DetectParameters, SegmentParameters
from service.rest import accepts, schema
from service.rest.answers import Answers, ClassifyAnswer, DetectAnswer, SegmentAnswer
from service.rest.asking import Asking
from service.rest.query import described
from service.settings import Settings
from service.tasks import classify, detect, segment


class _Direct(APIRoute):
    """A route whose function reads the request and makes the response itself."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function: FastAPI has nothing to find out for it."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter()
asked = APIRouter(route_class=_Direct)


# Not a coroutine, a dependency would be called in another thread.
async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


GatewayDep = Annotated[Gateway, Depends(_gateway)]
SettingsDep = Annotated[Settings, Depends(_settings)]


@asked.post(
    "/v1/classify",
    tags=["inference"],
    summary="Say what a picture shows",
    openapi_extra={
        "requestBody": schema.PICTURE_BODY,
        "parameters": described(ClassifyParameters),
    },
    response_model=ClassifyAnswer | Answers[ClassifyAnswer],
    responses=schema.responses("The likeliest classes."),
)
async def classify_picture(request: Request) -> Response:
    """Classify one picture: JPEG, PNG or WebP, as the body itself, in a form or in JSON.

    EXIF orientation is applied, transparency is laid on white, and of an animation the first
    frame counts.
    """
    asking = Asking(request, ClassifyParameters)
    options = asking.chosen.options(asking.settings)
    return asking.respond(await asking.answer(classify.TASK, options, ClassifyAnswer.of))


@asked.post(
    "/v1/detect",
    tags=["inference"],
    summary="Find things in a picture",
    openapi_extra={
        "requestBody": schema.PICTURE_BODY,
        "parameters": described(DetectParameters),
    },
    response_model=DetectAnswer | Answers[DetectAnswer],
    responses=schema.responses("What was found."),
)
async def detect_in_picture(request: Request) -> Response:
    """Find things in one picture, with boxes in its own pixels and, if asked for, masks.

    The picture comes as for classification; boxes are those of the upright picture.
    """
    asking = Asking(request, DetectParameters)
    options = asking.chosen.options()
    return asking.respond(await asking.answer(detect.TASK, options, DetectAnswer.of))


@asked.post(
    "/v1/segment",
    tags=["inference"],
    summary="Say what each pixel of a picture shows",
    openapi_extra={
        "requestBody": schema.PICTURE_BODY,
        "parameters": described(SegmentParameters),
    },
    response_model=SegmentAnswer | Answers[SegmentAnswer],
    responses=schema.responses(
        "The classes with their areas, and the map. With `Accept: image/png` the map alone.",
        content=schema.PNG_CONTENT,
    ),
)
async def segment_picture(request: Request) -> Response:
    """Say what each pixel of one picture shows, as a map of its own size.

    The picture comes as for classification; the map is that of the upright picture.
    """
    asking = Asking(request, SegmentParameters)
    options = asking.chosen.options()
    found = await asking.answer(segment.TASK, options, SegmentAnswer.of)
    wants_png = accepts.prefers_png(request.headers.get("accept", ""))
    if isinstance(found, SegmentAnswer) and found.class_map and wants_png:
        return asking.raw(base64.b64decode(found.class_map), accepts.PNG)
    return asking.respond(found)


router.include_router(asked)


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
    response.status_code = 200 if gateway.ready else 503
    return Readiness(
        ready=gateway.ready,
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
def metrics(
    gateway: GatewayDep, accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> Response:
    """Return request counts and a histogram for each stage.

    As OpenMetrics, with exemplars, where `Accept` asks for it.
    """
    # In a thread of its own: a GPU may take milliseconds to say what it draws.
    found = gateway.metrics
    if accepts.prefers_open_metrics(accept):
        return Response(found.render_open(), headers={"Content-Type": OPEN_METRICS})
    return Response(found.render(), headers={"Content-Type": TEXT})
