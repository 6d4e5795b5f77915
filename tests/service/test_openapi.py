"""Every operation of the OpenAPI document, with what it allows and what it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis import checks

from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests.conftest import Serve, encoded

PICTURE: Final = encoded(Image.new("RGB", (40, 30), "red"))
# make test-system looks longer.
EXAMPLES: Final = int(os.environ.get("GPUSQ_TEST_EXAMPLES", "25"))
PATHS: Final = (
    "/v1/classify",
    "/v1/detect",
    "/v1/segment",
    "/v1/models",
    "/healthz",
    "/readyz",
    "/metrics",
)
# The others would have a schema know which bytes are a picture.
CHECKS: Final = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)
# A case may well have chosen not to wait for its answer.
PATIENT: Final = 1.0


@pytest.fixture(scope="module")
def client(scene_repository: Path, serve: Serve) -> Iterator[httpx.Client]:
    given = Settings(repository=scene_repository, executor="onnxruntime", deadline_s=30)
    with serve(create_app(given, choice.load(given))) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> Any:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")

    @schema.hook
    def map_case(context: Any, case: Any) -> Any:
        # Random bytes are no picture; half of the cases shall come further than that.
        if str(case.media_type).startswith("image/") and len(case.query or {}) % 2:
            case.body = PICTURE
        waits = (case.headers or {}).get("X-Request-Timeout")
        if waits is not None and _seconds(waits) < PATIENT:
            del case.headers["X-Request-Timeout"]
        return case

    return schema


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return PATIENT


@pytest.mark.parametrize("path", PATHS)
def test_no_operation_fails_or_answers_what_is_not_described(document: Any, path: str):
    [operation] = document[path].values()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES == 25,
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    holds()


def test_every_operation_is_tried(document: Any):
    assert set(document) == set(PATHS)
