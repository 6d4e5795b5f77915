"""Ask the service, and check what every answer must be."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from service.app import create_app
from service.executors import choice
from service.rest.inference import PATHS
from service.settings import Settings
from tests.conftest import Serve

JPEG: Final = {"Content-Type": "image/jpeg"}
MAX_BODY_BYTES: Final = 200_000
MAX_PIXELS: Final = 1_000_000


def post(
    client: httpx.Client,
    data: bytes,
    kind: str = "image/png",
    task: str = "classify",
    accept: str = "*/*",
    **query: Any,
) -> httpx.Response:
    headers = {"Content-Type": kind, "Accept": accept}
    return client.post(f"/v1/{task}", content=data, params=query, headers=headers)


def label(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["predictions"][0]["label"])


def server_timing(answer: httpx.Response) -> dict[str, float]:
    """Return the milliseconds by stage in the header of that name."""
    found = re.findall(r"(\w+);dur=([\d.]+)", answer.headers.get("server-timing", ""))
    return {stage: float(ms) for stage, ms in found}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a whole RFC 9457 problem, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    timed = {"timings_ms"} if answer.request.url.path in PATHS else set()
    assert set(body) == {"type", "title", "status", "detail", "instance", "code"} | timed
    assert server_timing(answer) == body.get("timings_ms", {})
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:gpusq:problem:{code}"
    assert body["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    return body


@contextlib.contextmanager
def serving(repository: Path, serve: Serve, executor: Any) -> Iterator[httpx.Client]:
    """Serve a repository by one executor, with small limits."""
    settings = Settings(
        repository=repository,
        executor=executor,
        max_body_bytes=MAX_BODY_BYTES,
        max_pixels=MAX_PIXELS,
        # A busy test machine shall not turn an answer into a timeout.
        deadline_s=30,
    )
    with serve(create_app(settings, choice.load(settings))) as client:
        yield client
