"""API keys, headers and other origins over REST: a real server on the loopback."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from service.app import create_app
from service.errors import StartError
from service.rest import guard, headers
from service.settings import Settings
from tests.conftest import Serve
from tests.service.asking import JPEG, label, post, problem
from tests.service.fakes import FakeExecutor
from tests.service.keyring import Keyring

ROOT = Path(__file__).parents[2]
GUARDED = [
    ("POST", "/v1/classify"), ("POST", "/v1/detect"), ("POST", "/v1/segment"),
    ("GET", "/v1/models"), ("HEAD", "/v1/models"), ("GET", "/v2"), ("POST", "/v2/models/a/infer"),
    ("GET", "/v1/models/"), ("GET", "/v1//models"), ("GET", "/V1/models"), ("GET", "/v1%2Fmodels"),
    ("GET", "/v1/none"), ("GET", "/assets"), ("GET", "/healthz/"), ("GET", "/metrics/"),
    ("PUT", "/v1/models"), ("OPTIONS", "/v1/classify"),
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    made = Keyring(tmp_path_factory.mktemp("keys") / "keys.json")
    made.add("ann")
    made.add("limited", rate=0.001, burst=2)
    made.add("spent", quota=1)
    made.add("some", models=["colours"])
    made.add("scraper", scopes=["metrics"])
    return made


@pytest.fixture(scope="module")
def ann(file: Keyring) -> dict[str, str]:
    return file.headers("ann")


@pytest.fixture(scope="module")
def scraper(file: Keyring) -> dict[str, str]:
    return file.headers("scraper")


@pytest.fixture(scope="module")
def client(serve: Serve, file: Keyring) -> Iterator[httpx.Client]:
    settings = Settings(api_keys=file.path, metrics_need_key=True, deadline_s=30)
    with serve(create_app(settings, FakeExecutor(models=("colours", "more")))) as client:
        yield client


def send(client: httpx.Client, data: bytes, headers: dict[str, str], query: str = ""):
    return client.post(f"/v1/classify{query}", content=data, headers={**JPEG, **headers})


def counted(client: httpx.Client, headers: dict[str, str]) -> dict[tuple[str, str], float]:
    text = client.get("/metrics", headers=headers).text
    found = re.findall(r'key_requests_total\{key="(.*)",outcome="(.*)"\} (\S+)', text)
    return {(key, outcome): float(count) for key, outcome, count in found}


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_key_nothing_of_the_api_answers(client: httpx.Client, method: str, path: str):
    answer = client.request(method, path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        v2 = path.startswith("/v2")
        said = answer.json()["error"] if v2 else problem(answer, 401, "unauthenticated")["detail"]
        assert said.endswith("Bearer KEY'.")


@pytest.mark.parametrize("path", sorted(guard.OPEN))
def test_probes_and_the_page_need_no_key(client: httpx.Client, path: str):
    assert client.get(path).status_code in (200, 404)
    assert client.get("/assets/page.js").status_code == 200


def test_what_is_not_guarded_answers_nothing_about_models(client: httpx.Client):
    assert all("colours" not in client.get(path).text for path in guard.OPEN - {"/readyz"})


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {}"])
def test_a_key_comes_as_a_bearer(client: httpx.Client, ann, red_jpeg: bytes, form: str):
    secret = ann["Authorization"].removeprefix("Bearer ")

    assert label(send(client, red_jpeg, {"Authorization": form.format(secret)})) == "red"


def test_a_key_comes_beside_a_proxys_password(client: httpx.Client, ann, red_jpeg: bytes):
    secret = ann["Authorization"].removeprefix("Bearer ")

    for more in ({}, {"Authorization": "Basic YTpi"}):
        assert label(send(client, red_jpeg, {"X-API-Key": secret, **more})) == "red"


@pytest.mark.parametrize("wrong", ["Bearer", "Bearer guess", "Basic YTpi", "gpusq_x"])
def test_what_is_no_valid_key_is_refused(client: httpx.Client, ann, wrong: str):
    problem(client.get("/v1/models", headers={"Authorization": wrong}), 401, "unauthenticated")


def test_a_wrong_key_is_refused_before_its_picture_is_read(client: httpx.Client):
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), 5) as sent:
        sent.sendall(head + b"Content-Length: 100000\r\n\r\n")

        assert sent.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_key_for_some_models_names_one_of_them(
    client: httpx.Client, file: Keyring, red_jpeg: bytes
):
    some = file.headers("some")
    assert label(send(client, red_jpeg, some, "?model=colours")) == "red"
    assert client.get("/v1/models", headers=some).status_code == 200
    for query in ("", "?model=more", "?model=none", "?model=", "?model=colours&model=more"):
        problem(send(client, red_jpeg, some, query), 403, "forbidden")
    # The last one counts, and twice is refused further in.
    repeated = send(client, red_jpeg, some, "?model=more&model=colours")
    problem(repeated, 422, "invalid_argument")
    for path in ("/v2/models/more/infer", "/v2/models/more", "/v2/models/more/versions/1/infer"):
        assert client.post(path, headers=some).status_code == 403
    assert client.post("/v2/models/colours/none", headers=some).status_code == 404


def test_a_key_is_for_its_scopes_only(client: httpx.Client, scraper, ann, red_jpeg: bytes):
    problem(send(client, red_jpeg, scraper), 403, "forbidden")
    problem(client.get("/v1/models", headers=scraper), 403, "forbidden")
    problem(client.get("/metrics", headers=ann), 403, "forbidden")
    problem(client.get("/metrics"), 401, "unauthenticated")
    assert client.get("/metrics", headers=scraper).status_code == 200


def test_a_key_over_its_rate_hears_when_to_come_back(
    client: httpx.Client, file: Keyring, red_jpeg: bytes
):
    limited = file.headers("limited")
    for _ in range(2):
        label(send(client, red_jpeg, limited))

    answer = send(client, red_jpeg, limited)

    problem(answer, 429, "rate_limited")
    assert 998 <= int(answer.headers["retry-after"]) <= 1000


def test_a_key_over_its_quota_hears_when_the_day_ends(
    client: httpx.Client, file: Keyring, red_jpeg: bytes
):
    spent = file.headers("spent")
    label(send(client, red_jpeg, spent))

    answer = send(client, red_jpeg, spent)

    problem(answer, 429, "quota_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 86_400


def test_requests_are_counted_by_key_and_outcome(client: httpx.Client, ann, scraper, red_jpeg):
    before = counted(client, scraper)
    send(client, red_jpeg, ann)
    send(client, red_jpeg, {"Authorization": 'Bearer a"b'})

    after = counted(client, scraper)

    changed = {name: count - before.get(name, 0) for name, count in after.items()}
    assert changed[("ann", "admitted")] == 1
    assert changed[("", "unauthenticated")] == 1
    assert {key for key, _ in after} <= {"", "ann", "limited", "spent", "some", "scraper"}
    metrics = client.get("/metrics", headers=scraper).text
    assert 'gpusq_requests_total{model="colours",outcome="unauthenticated"' in metrics


def test_a_revoked_key_is_refused_within_seconds(serve: Serve, tmp_path: Path):
    file = Keyring(tmp_path / "keys.json")
    file.add("ann")
    headers = file.headers("ann")
    with serve(create_app(Settings(api_keys=file.path), FakeExecutor())) as client:
        assert client.get("/v1/models", headers=headers).status_code == 200
        # Open, unless a setting says otherwise.
        assert client.get("/metrics").status_code == 200
        file.path.write_text('{"keys": []}')
        until = time.monotonic() + 5
        while client.get("/v1/models", headers=headers).status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.05)

        problem(client.get("/v1/models", headers=headers), 401, "unauthenticated")


def test_the_openapi_document_says_how_to_send_a_key_and_what_refuses_it(client: httpx.Client):
    document = client.get("/openapi.json").json()

    OpenAPI.model_validate(document)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needs = guard.scope_of(method.upper(), path, metrics_need_key=True) is not None
            assert ("security" in operation) == needs
            assert {"401", "403", "429"} <= set(operation["responses"]) or not needs


def test_metrics_that_need_a_key_need_a_file_of_keys():
    with pytest.raises(StartError, match="GPUSQ_API_KEYS names no file"):
        create_app(Settings(metrics_need_key=True), FakeExecutor())


@pytest.fixture(scope="module")
def plain(serve: Serve) -> Iterator[httpx.Client]:
    """Without keys, with one other origin that may ask."""
    settings = Settings(cors_origins="https://app.example, http://[::1]:3000")
    with serve(create_app(settings, FakeExecutor())) as client:
        yield client


def test_every_answer_tells_browsers_what_it_may_be_used_for(plain: httpx.Client, red_jpeg: bytes):
    for answer in (post(plain, red_jpeg), plain.get("/v1/models"), plain.get("/none")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers


def test_every_such_header_is_explained():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

    assert [name for name in {**headers.ALWAYS, **headers.OVER_TLS} if f"`{name}" not in page] == []


def test_what_has_a_policy_of_its_own_keeps_it(plain: httpx.Client):
    assert "script-src 'self'" in plain.get("/").headers["content-security-policy"]
    assert plain.get("/assets/page.js").headers["cache-control"] == "max-age=300"


@pytest.mark.parametrize("origin", ["https://app.example", "http://[::1]:3000"])
def test_an_origin_that_was_named_may_ask(plain: httpx.Client, red_jpeg: bytes, origin: str):
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-request-timeout",
    }

    before = plain.options("/v1/classify", headers=asked)
    answer = send(plain, red_jpeg, {"Origin": origin})

    assert before.status_code == 200
    for said in (before.headers, answer.headers):
        assert said["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in said
    assert "Retry-After" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil"])
def test_another_origin_may_not(plain: httpx.Client, red_jpeg: bytes, origin: str):
    assert "access-control-allow-origin" not in send(plain, red_jpeg, {"Origin": origin}).headers
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert plain.options("/v1/classify", headers=asked).status_code == 400


def test_without_the_setting_no_origin_may(client: httpx.Client, ann, red_jpeg: bytes):
    headers = send(client, red_jpeg, {**ann, "Origin": "https://app.example"}).headers

    assert not [name for name in headers if name.startswith("access-control")]
