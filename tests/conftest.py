"""What several folders of tests share: a repository of tiny models, and a real server on it."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from contract import telemetry
from tests import bundles, finding

# Tests import the runtimes themselves too, past the commands that do this.
telemetry.switch_off()
# Commands that tests start beside each other shall not want the same port.
os.environ.setdefault("GPUSQ_GRPC_PORT", "0")

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def red_jpeg() -> bytes:
    return encoded(Image.new("RGB", (64, 48), "red"), "JPEG")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that work and one that does not."""
    folder = tmp_path_factory.mktemp("model_repository")
    bundles.write_model(folder, "colours")
    names = (*bundles.COLOURS, "never", "nor ever")
    bundles.write_model(folder, "more-colours", bundles.colour_graph(6), bundles.colour_card(names))
    broken = bundles.write_model(folder, "broken")
    (broken / "1" / "model.onnx").write_bytes(b"not a network")
    return folder


@pytest.fixture(scope="session")
def scene_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every task, published as users do."""
    return finding.write_repository(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Start a real server on a free port of the loopback; gives a client of it."""
    return _serve


@contextlib.contextmanager
def _serve(app: FastAPI) -> Iterator[httpx.Client]:
    config = uvicorn.Config(app, port=0, http="httptools", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
