"""The command ``python -m service``, which ``gpusq serve`` runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service import listening
from service.app import create_app
from service.errors import StartError
from service.executors import choice
from service.executors.aside import finish
from service.gateway import Gateway
from service.observe import logs
from service.rest.wire import Wire
from service.rpc.server import Server
from service.security import floors
from service.security.tls import Certificates
from service.settings import PREFIX, Settings, unknown

logger = logging.getLogger("service")

# From glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
EXAMPLE: Final = """\
example:
  gpusq serve --repository model_repository --host 127.0.0.1 --port 8000
  curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/classify

Every other setting is an environment variable, such as GPUSQ_DEADLINE_S=5; docs/settings.md lists
them all. The page is at /, the API's documentation at /docs."""


def main() -> int:
    """Serve until a signal comes; return the exit code."""
    # Without this a stop while models load would end in a traceback.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = _settings()
        logs.configure(settings.log_level, settings.log_format)
        for said in (*unknown(os.environ), *floors.below()):
            logger.warning("%s", said)
        # It warns of every malformed form, which is the client's business and answered there.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        serve(settings)
    except StartError as error:
        print(f"gpusq serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def serve(settings: Settings) -> None:
    """Load the models, then answer until a signal comes.

    Raises:
        StartError: No usable model, or the address cannot be had.
    """
    _give_memory_back()
    with contextlib.ExitStack() as held:
        listener = held.enter_context(listening.http(settings))
        rpc_listener = held.enter_context(listening.grpc(settings)) if settings.grpc else None
        app = create_app(settings, choice.load(settings), rpc_listener)
        config = configured(app, settings)
        try:
            _Server(app, config, settings.stop_grace_s).run(sockets=[listener])
        finally:
            logger.info("stopped")
            _leave()


def configured(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Say how the application is served over HTTP."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=Wire,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Proxies and HTTP clients keep a connection for up to 60 s. Were we the first to close
        # it, a request might be on its way.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    certificates: Certificates | None = app.state.access.certificates
    if certificates is not None:
        config.load()
        # Its own would be made of the files once; this one takes up renewed ones.
        config.ssl = certificates.context
    return config


class _Server(uvicorn.Server):
    def __init__(self, app: FastAPI, config: uvicorn.Config, grace_s: float) -> None:
        super().__init__(config)
        self._gateway: Gateway = app.state.gateway
        self._rpc: Server | None = app.state.rpc
        self._grace_s = grace_s
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at SIGTERM say for a while before that no more requests should come."""
        if sig == signal.SIGTERM and self._loop and self._grace_s and not self._gateway.leaving:
            self._gateway.leaving = True
            logger.info("stopping in %g s", self._grace_s)
            # Signals come between two steps of the loop, which may be asleep.
            self._loop.call_soon_threadsafe(
                self._loop.call_later, self._grace_s, super().handle_exit, sig, frame
            )
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where the service is once it can be reached there; scripts wait for this line."""
        self._loop = asyncio.get_running_loop()
        if self._rpc is not None:
            await self._rpc.bind()
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            scheme = "https" if self.config.ssl else "http"
            name = f"[{host}]" if ":" in host else host
            logger.info("ready at %s://%s:%d", scheme, name, port)
        if self._rpc is not None:
            scheme = "grpcs" if self.config.ssl else "grpc"
            logger.info("ready at %s://%s", scheme, self._rpc.address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop both transports at once; the application's end waits for gRPC's."""
        if self._rpc is None:
            await super().shutdown(sockets)
            return
        stopping = asyncio.ensure_future(self._rpc.stop())
        await super().shutdown(sockets)
        if self.force_exit:
            await self._rpc.abort()
        await stopping


def _leave() -> None:
    """End at once where a network is still being loaded, which may take a minute."""
    if not finish(timeout_s=0):
        logging.shutdown()
        # Nothing is left to lose, and the interpreter's own end could abort in that thread.
        os._exit(0)


def _settings() -> Settings:
    parser = argparse.ArgumentParser(
        prog="gpusq serve",
        description="Serve a model repository over HTTP and gRPC.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="the model repository (model_repository)"
    )
    parser.add_argument("--host", metavar="H", help="the address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="P", help="the port; 0 picks one (8000)")
    given: dict[str, Any] = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        # A pattern says nothing to people; what it stands for does.
        pattern = first["type"] == "string_pattern_mismatch"
        said = (
            f"expected {Settings.model_fields[str(name)].description}" if pattern else first["msg"]
        )
        raise StartError(f"{PREFIX}{str(name).upper()}: {said}, got {first['input']!r}") from error


def _give_memory_back() -> None:
    # glibc raises this threshold as blocks are freed, after which it keeps what large pictures
    # took: four of 49 megapixels left the process at 730 MB, with this at 160 MB.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)


if __name__ == "__main__":
    sys.exit(main())
