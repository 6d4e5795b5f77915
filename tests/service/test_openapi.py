"""Every operation of the OpenAPI document, with what it allows and what it does not."""

from __future__ import annotations

import os
import time
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
from service.rest import guard
from service.settings import Settings
from tests.conftest import Serve, encoded
from tests.service.fakes import FakeExecutor
from tests.service.keyring import Keyring

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
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/repository/index",
    "/v2/models/stats",
    *(
        f"/v2/models/{{model}}{version}{what}"
        for version in ("", "/versions/{version}")
        for what in ("", "/ready", "/config", "/stats", "/infer")
    ),
)
# As others are of a model and its versions.
ALIKE: Final = ("{version}", "/config", "/stats", "{version}/ready", "{version}/infer")
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
# Each of these keys is refused for a reason of its own.
KEYS: Final[dict[str, dict[str, Any]]] = {
    "slow": {"rate": 0.001},
    "spent": {"quota": 1},
    "other": {"models": ["none"]},
    "scraper": {"scopes": ["metrics"]},
}


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
        # So is a random name no model.
        named = case.path_parameters or {}
        if len(named.get("model", "")) % 2:
            named["model"] = "colours"
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


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    made = Keyring(tmp_path_factory.mktemp("keys") / "keys.json")
    for name, chosen in KEYS.items():
        made.add(name, **chosen)
    return made


@pytest.fixture(scope="module")
def keyed(keyring: Keyring, serve: Serve) -> Iterator[httpx.Client]:
    given = Settings(api_keys=keyring.path, metrics_need_key=True, deadline_s=30)
    with serve(create_app(given, FakeExecutor())) as client:
        yield client


@pytest.fixture(scope="module")
def keyed_document(keyed: httpx.Client) -> Any:
    return schemathesis.openapi.from_url(f"{keyed.base_url}/openapi.json")


@pytest.mark.parametrize("path", [path for path in PATHS if not path.endswith(ALIKE)])
def test_every_refusal_of_a_key_is_described(keyed_document: Any, keyring: Keyring, path: str):
    [operation] = keyed_document[path].values()
    statuses = set()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def holds(case: Any) -> None:
        wrong = {"Authorization": "Bearer guess"}
        for headers in (*map(keyring.headers, KEYS), wrong):
            answer = case.call(headers=headers)
            while headers is wrong and answer.status_code == 429:
                # Guesses are heard ten times a second.
                time.sleep(0.05)
                answer = case.call(headers=headers)
            case.validate_response(answer, checks=CHECKS)
            statuses.add(answer.status_code)

    holds()

    opened = path in guard.OPEN
    assert opened or {401, 403} <= statuses
    assert opened or path == "/metrics" or 429 in statuses
