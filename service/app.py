"""Wire an application: the only place that knows every part."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Lifespan

from service.errors import StartError
from service.executors.executor import Executor
from service.gateway import Gateway
from service.observe import gpu, tracing
from service.observe.observer import Observer
from service.oip.protocol import OpenInference
from service.rest import headers, pages, problems, routes, schema
from service.rest import oip as open_inference
from service.rest.edge import Edge
from service.rest.fetch import Fetcher
from service.rest.guard import Guard
from service.rest.linger import Linger
from service.rest.turnstile import Turnstile
from service.rpc.guard import KeyGuard
from service.rpc.oip import GrpcInference
from service.rpc.server import Server
from service.rpc.vision import Vision
from service.security.access import Access
from service.settings import Settings

logger = logging.getLogger(__name__)

_DESCRIPTION: Final = (
    "Send a picture, get labels, boxes, masks or a map, and the time that every stage took. "
    "Errors are RFC 9457 problems; "
    "`code` is stable, `detail` is for people."
)


def create_app(
    settings: Settings, executor: Executor, rpc_listener: socket.socket | None = None
) -> FastAPI:
    """Make the application that answers with one executor's models.

    Args:
        settings: Limits and defaults.
        executor: Loaded and warm, or one that finds its models itself; the application closes it
            when it stops.
        rpc_listener: Where gRPC is to answer, bound and not listening; None for nowhere.

    Raises:
        StartError: No model can be asked, or the default model is not among those that can; the
            API keys or the certificate cannot be used.
    """
    gateway = Gateway(executor, settings)
    access = Access.of(settings, gateway.metrics.count_key)
    observer = Observer(tracing.start(settings, os.environ))
    if not executor.discovers:
        _require_default(gateway)
    # Only now: a start that fails says all of them in its one line.
    for name, reason in sorted(gateway.unavailable.items()):
        logger.warning("model %s is unavailable: %s", name, reason)
    oip = OpenInference(gateway, settings)
    rpc = None if rpc_listener is None else _rpc(gateway, settings, rpc_listener, observer, access)
    if rpc is not None:
        rpc.add(GrpcInference(oip))
    app = FastAPI(
        title="GPUSQ-ViT",
        summary="Sparse INT8 Vision Transformers, served",
        description=_DESCRIPTION,
        version="1",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        # They would redirect to whatever the Host header says.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        # It would trace beside us, with no word of models and stages.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        lifespan=_lifespan(gateway, observer, access, rpc),
    )
    app.state.gateway = gateway
    app.state.settings = settings
    app.state.fetcher = Fetcher(settings.url_hosts)
    app.state.oip = oip
    app.state.rpc = rpc
    app.state.observer = observer
    app.state.access = access
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    app.include_router(pages.router)
    problems.install(app)
    schema.install(app)
    _wrap(app, settings, observer, access)
    return app


def _operation_id(route: APIRoute) -> str:
    """Return what generated clients call an operation."""
    return f"{route.name}_of_version" if "{version}" in route.path else route.name


def _wrap(app: FastAPI, settings: Settings, observer: Observer, access: Access) -> None:
    """Put the layers around an application, the innermost first."""
    app.add_middleware(Turnstile)
    if access.gatekeeper is not None:
        app.add_middleware(
            Guard, gatekeeper=access.gatekeeper, metrics_need_key=settings.metrics_need_key
        )
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **headers.cors(settings.cors_origins))
    app.add_middleware(Edge, observer=observer, tls=access.certificates is not None)
    app.add_middleware(Linger)


def _lifespan(
    gateway: Gateway, observer: Observer, access: Access, rpc: Server | None
) -> Lifespan[FastAPI]:
    """Return what runs beside the requests, from the start to the stop."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if (gpus := gpu.find()) is not None:
            gateway.metrics.add(gpus)
        watching = [asyncio.create_task(watch()) for watch in (gateway.watch, access.watch)]
        for task in watching:
            task.add_done_callback(_complain)
        if rpc is not None:
            await rpc.start()
        yield
        if rpc is not None:
            await rpc.stop()
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        gateway.close()
        observer.close()

    return lifespan


def _complain(watching: asyncio.Task[None]) -> None:
    """Say at once that something is no longer followed; nobody awaits it before the stop."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        logger.error("changes are no longer noticed; restart the service", exc_info=error)


def _rpc(
    gateway: Gateway,
    settings: Settings,
    listener: socket.socket,
    observer: Observer,
    access: Access,
) -> Server:
    server = Server(gateway, settings, listener, observer, access.certificates)
    if access.gatekeeper is not None:
        server.guard(KeyGuard(access.gatekeeper))
    server.add(Vision(gateway, settings))
    return server


def _require_default(gateway: Gateway) -> None:
    if gateway.catalogue.answers(gateway.default):
        return
    why = "".join(f" {name}: {reason}." for name, reason in sorted(gateway.unavailable.items()))
    if not gateway.models:
        raise StartError(f"no model of the repository can be used.{why}")
    known = ", ".join({**gateway.models, **gateway.catalogue.aliases})
    raise StartError(
        f"the default model {gateway.default!r} cannot be used; these can: {known}.{why}"
    )
