"""What requests took and how they ended, in answers and in metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.executors import choice
from tests.conftest import Serve
from tests.service import asking
from tests.service.asking import JPEG, MAX_BODY_BYTES, post, problem, server_timing


@pytest.fixture(scope="module", params=sorted(choice.RUNTIMES))
def client(
    request: pytest.FixtureRequest, repository: Path, serve: Serve
) -> Iterator[httpx.Client]:
    with asking.serving(repository, serve, request.param) as client:
        yield client


def test_server_timing_equals_timings_ms(client: httpx.Client, red_jpeg: bytes):
    answer = post(client, red_jpeg)

    timings_ms = server_timing(answer)
    assert timings_ms == answer.json()["timings_ms"]
    assert list(timings_ms) == [
        "read", "decode", "preprocess", "queue", "infer", "postprocess", "total",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "query", "status", "code", "reached"),
    [
        (b"", {"top_k": 0}, 422, "invalid_argument", []),
        (b"", {"model": "resnet"}, 404, "unknown_model", []),
        (b"x" * (MAX_BODY_BYTES + 1), {}, 413, "too_many_bytes", ["read"]),
        (b"", {}, 422, "bad_image", ["read", "decode", "queue"]),
    ],
)
def test_a_refusal_says_where_the_time_went_until_it(
    client: httpx.Client, content: bytes, query: dict[str, str], status: int, code: str, reached
):
    body = problem(post(client, content, **query), status, code)

    timings_ms = body["timings_ms"]
    assert list(timings_ms) == [*reached, "total"]
    # Each is rounded to a microsecond.
    assert sum(timings_ms[stage] for stage in reached) <= timings_ms["total"] + 0.002


def test_the_metrics_move(client: httpx.Client, red_jpeg: bytes):
    def counts() -> tuple[float, float]:
        text = client.get("/metrics").text
        ok = re.search(r'requests_total\{model="colours",outcome="ok",.*\} (\S+)', text)
        infer = re.search(r'seconds_count\{model="colours",stage="infer",.*\} (\S+)', text)
        assert ok
        assert infer
        return float(ok[1]), float(infer[1])

    ok, infer = counts()
    post(client, red_jpeg)
    assert counts() == (ok + 1, infer + 1)


def outcomes(client: httpx.Client) -> dict[str, float]:
    """Return the count of each outcome, over all models."""
    counts: dict[str, float] = {}
    text = client.get("/metrics").text
    for code, count in re.findall(r'requests_total\{.*outcome="(\w+)",.*\} (\S+)', text):
        counts[code] = counts.get(code, 0) + float(count)
    return counts


REFUSED = {
    "an unknown parameter": ("POST", "?topk=3", JPEG, b""),
    "a parameter out of range": ("POST", "?top_k=0", JPEG, b""),
    "a parameter that is no number": ("POST", "?top_k=abc", JPEG, b""),
    "a parameter given twice": ("POST", "?top_k=1&top_k=5", JPEG, b""),
    "an unknown model": ("POST", "?model=resnet", JPEG, b""),
    "an unavailable model": ("POST", "?model=broken", JPEG, b""),
    "another method": ("GET", "", {}, b""),
    "another content type": ("POST", "", {"Content-Type": "text/plain"}, b"{}"),
    "no picture": ("POST", "", JPEG, b"no picture"),
    "too many bytes": ("POST", "", JPEG, b"x" * (MAX_BODY_BYTES + 1)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_every_refusal_is_counted_once_with_its_code(client: httpx.Client, why: str):
    method, query, headers, content = REFUSED[why]
    before = outcomes(client)

    answer = client.request(method, f"/v1/classify{query}", headers=headers, content=content)

    code = answer.json()["code"]
    assert outcomes(client) == {**before, code: before.get(code, 0) + 1}


def test_what_is_not_for_a_network_is_not_counted(client: httpx.Client):
    before = outcomes(client)

    client.post("/v1/models")
    client.get("/v1/nothing")

    assert outcomes(client) == before
