"""Pictures in JSON, several at once, and by URL: a real server and a real network."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.rest.answers import Answers, ClassifyAnswer
from tests.conftest import Serve
from tests.service.asking import MAX_BODY_BYTES, label, post, problem, server_timing, serving


@pytest.fixture
def client(repository: Path, serve: Serve) -> Iterator[httpx.Client]:
    with serving(repository, serve, "onnxruntime") as client:
        yield client


def text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def ask(client: httpx.Client, body: Any) -> httpx.Response:
    return client.post("/v1/classify", json=body)


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "timings_ms"}


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_a_picture_in_json_is_answered_as_the_picture_itself(
    client: httpx.Client, red_jpeg: bytes, prefix: str
):
    answer = ask(client, {"image": prefix + text(red_jpeg)})

    assert label(answer) == "red"
    alone = post(client, red_jpeg).json()
    assert without_times(answer.json()) == without_times(alone)
    assert set(answer.json()["timings_ms"]) == set(alone["timings_ms"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "no JSON"),
        (b"[]", "got []"),
        (b"{}", "got nothing"),
        (b'{"picture": ""}', "got 'picture'"),
        (b'{"image": "", "top_k": 3}', "Options such as top_k go into the query"),
        (b'{"image": 3}', "image must be text, got 3"),
        (b'{"image": "a"}', "no base64"),
        (b'{"images": "a"}', "a list of 1 to 16"),
        (b'{"images": []}', "a list of 1 to 16"),
        (b'{"images": [1]}', "images[0] must be text, got 1"),
        (b'{"urls": [1]}', "urls[0] must be text, got 1"),
        (b"[" * 5000, "no JSON"),
        (b'{"images": [' + b"[]," * 10_001 + b"[]]}", "thousands of values"),
        (b'{"images": [' + b"{}," * 10_001 + b"{}]}", "thousands of values"),
        (b'{"images": ["' + b'","' * 10_001 + b'"]}', "thousands of values"),
    ],
)
def test_other_json_is_told_what_is_expected(client: httpx.Client, content: bytes, said: str):
    answer = post(client, content, "application/json")

    assert said in problem(answer, 400, "bad_request")["detail"]


def test_a_fault_of_the_picture_in_json_is_the_same_problem(client: httpx.Client):
    problem(ask(client, {"image": ""}), 422, "bad_image")
    problem(ask(client, {"image": text(b"no picture")}), 415, "unsupported_media")


def test_json_may_be_a_third_larger_than_what_is_in_it(client: httpx.Client):
    fits = text(b"\0" * MAX_BODY_BYTES)
    problem(ask(client, {"image": fits}), 415, "unsupported_media")
    problem(ask(client, {"image": text(b"\0" * (MAX_BODY_BYTES + 1))}), 413, "too_many_bytes")
    problem(ask(client, {"image": fits + "AAAA" * 2000}), 413, "too_many_bytes")


@pytest.mark.parametrize("form", [True, False])
def test_several_pictures_are_answered_by_a_list(client: httpx.Client, red_jpeg: bytes, form: bool):
    if form:
        pictures = [("a.jpg", red_jpeg), ("b.jpg", b"no picture"), ("c.jpg", red_jpeg)]
        answer = client.post("/v1/classify", files=[("images", one) for one in pictures])
    else:
        images = [text(red_jpeg), text(b"no picture"), text(red_jpeg)]
        answer = ask(client, {"images": images})

    assert answer.status_code == 200, answer.text
    Answers[ClassifyAnswer].model_validate(answer.json())
    first, second, third = answer.json()["answers"]
    assert first["answer"]["predictions"] == third["answer"]["predictions"]
    assert first["answer"]["predictions"][0]["label"] == "red"
    assert second["problem"]["code"] == "unsupported_media"
    assert second["problem"]["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    assert [entry.get("name") for entry in (first, second, third)] == (
        ["a.jpg", "b.jpg", "c.jpg"] if form else [None] * 3
    )
    assert server_timing(answer)["total"] >= first["answer"]["timings_ms"]["decode"]


def test_one_picture_among_several_is_still_answered_by_a_list(
    client: httpx.Client, red_jpeg: bytes
):
    answer = ask(client, {"images": [text(red_jpeg)]})

    assert len(answer.json()["answers"]) == 1


def test_each_of_several_pictures_is_counted(client: httpx.Client, red_jpeg: bytes):
    ask(client, {"images": [text(red_jpeg), text(b"no picture"), text(red_jpeg)]})

    metrics = client.get("/metrics").text
    assert 'gpusq_requests_total{model="colours",outcome="ok",task="classify"} 2.0' in metrics
    refused = (
        'gpusq_requests_total{model="colours",outcome="unsupported_media",task="classify"} 1.0'
    )
    assert refused in metrics
    assert "gpusq_in_flight 0.0" in metrics


def test_urls_are_refused_unless_an_operator_names_hosts(client: httpx.Client):
    body = problem(ask(client, {"url": "https://127.0.0.1/a.jpg"}), 422, "invalid_argument")

    assert "not fetched from URLs here" in body["detail"]


def test_base64_in_lines_or_in_the_alphabet_of_urls_is_taken_too(
    client: httpx.Client, red_jpeg: bytes
):
    wrapped = base64.encodebytes(red_jpeg).decode("ascii")
    of_urls = base64.urlsafe_b64encode(red_jpeg).decode("ascii")

    assert label(ask(client, {"image": wrapped})) == "red"
    assert label(ask(client, {"image": of_urls})) == "red"


def test_one_of_several_that_is_no_base64_or_cannot_be_fetched_has_its_own_problem(
    client: httpx.Client, red_jpeg: bytes
):
    first, second = ask(client, {"images": [text(red_jpeg), "?"]}).json()["answers"]
    assert first["answer"]["predictions"][0]["label"] == "red"
    assert second["problem"]["code"] == "bad_request"
    assert "images[1] is no base64" in second["problem"]["detail"]

    [refused] = ask(client, {"urls": ["https://127.0.0.1/a.jpg"]}).json()["answers"]
    assert refused["name"] == "https://127.0.0.1/a.jpg"
    assert refused["problem"]["code"] == "invalid_argument"


def test_a_field_of_a_form_that_is_no_file_is_told_where_options_go(
    client: httpx.Client, red_jpeg: bytes
):
    answer = client.post("/v1/classify", files={"image": red_jpeg}, data={"top_k": "1"})

    detail = problem(answer, 400, "bad_request")["detail"]
    assert "the field 'top_k' is no file. Options such as model go into the query" in detail


def test_a_compressed_body_is_told_to_come_plain(client: httpx.Client, red_jpeg: bytes):
    headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
    answer = client.post("/v1/classify", content=red_jpeg, headers=headers)

    detail = problem(answer, 415, "unsupported_media")["detail"]
    assert "got it with Content-Encoding 'gzip'" in detail


def test_another_method_is_told_the_right_one(client: httpx.Client):
    detail = problem(client.get("/v1/classify"), 405, "method_not_allowed")["detail"]

    assert detail == "Expected POST at /v1/classify, got GET. See /docs."
