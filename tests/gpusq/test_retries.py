"""What is tried again, when, and what is not: both clients, and a real server that misbehaves."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import gpusq
from tests.gpusq.asking import KINDS, Asker
from tests.gpusq.scripted import Says, Scripted, problem, running

PICTURE = b"\x89PNG and so on"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def script() -> Iterator[Scripted]:
    with running() as script:
        yield script


def ask(kind: str, url: str, **named: object) -> gpusq.ClassifyAnswer:
    with Asker(kind, url, **named) as client:
        answer: gpusq.ClassifyAnswer = client.classify(PICTURE)
        return answer


def refusal(kind: str, url: str, **named: object) -> gpusq.RequestRefusedError:
    with pytest.raises(gpusq.RequestRefusedError) as caught:
        ask(kind, url, **named)
    return caught.value


@pytest.mark.parametrize(
    "trouble",
    [
        problem(429, "overloaded", "0"),
        problem(503, "executor_unavailable", "0"),
        problem(504, "deadline_exceeded", "0"),
        Says(502, b"<html>Bad Gateway</html>"),
        Says(503, b"<html>no upstream</html>"),
        Says(status=0),
        Says(cut=True),
    ],
    ids=lambda says: f"{says.status}{' cut' if says.cut else ''}",
)
def test_what_passes_is_asked_again_with_the_whole_picture(kind, script: Scripted, trouble: Says):
    script.says = [trouble, Says()]

    answer = ask(kind, script.url)

    assert answer.predictions[0].label == "tabby"
    assert [came.body for came in script.came] == [PICTURE, PICTURE]
    assert script.came[0].target == script.came[1].target


@pytest.mark.parametrize(
    "final",
    [
        problem(400, "bad_request"),
        problem(401, "unauthorized"),
        problem(408, "read_timeout"),
        problem(413, "too_many_bytes"),
        problem(422, "bad_image"),
        problem(500, "internal"),
        # The service says of no time at which it may be better.
        problem(503, "model_unavailable"),
    ],
    ids=lambda says: says.said["code"],
)
def test_what_stays_as_it_is_is_asked_once(kind, script: Scripted, final: Says):
    script.says = [final]

    error = refusal(kind, script.url, retries=5)

    assert len(script.came) == 1
    assert (error.status, error.code) == (final.status, final.said["code"])
    assert str(error) == error.detail == final.said["detail"]
    assert (error.request_id, error.timings_ms) == ("id-1", {"total": 1.0})


def test_the_service_says_when_and_hears_how_much_time_is_left():
    with running() as one, running() as other, ThreadPoolExecutor() as pool:
        for script in (one, other):
            script.says = [problem(429, "overloaded", "1"), Says()]
        list(pool.map(partial(ask, timeout_s=20), KINDS, (one.url, other.url)))

        for script in (one, other):
            first, second = script.came
            # Nothing is added: the rest is what a loaded machine takes to ask.
            assert 1.0 <= second.at_s - first.at_s < 4
            told, left = (float(came.headers["x-request-timeout"]) for came in script.came)
            assert 15 < told <= 20
            assert left <= told - 1


def test_a_wait_beyond_the_deadline_is_not_begun(kind, script: Scripted):
    script.says = [problem(429, "overloaded", "60")]

    started = time.monotonic()
    error = refusal(kind, script.url, timeout_s=30)

    assert time.monotonic() - started < 10
    assert error.retry_after_s == 60
    assert len(script.came) == 1


def test_no_more_is_asked_than_retries_allow(kind, script: Scripted):
    script.says = [problem(429, "overloaded", "0")]

    refusal(kind, script.url, retries=3)

    assert len(script.came) == 4


@pytest.mark.parametrize("slow", [Says(before_s=9), Says(between_s=0.05)], ids=["late", "slowly"])
def test_an_answer_that_takes_too_long_is_given_up_in_time(kind, script: Scripted, slow: Says):
    script.says = [slow]

    with Asker(kind, script.url, timeout_s=0.3) as client:
        started = time.monotonic()
        with pytest.raises(gpusq.OutOfTimeError, match=r"within 0\.3 s"):
            client.classify(PICTURE)

    assert 0.29 < time.monotonic() - started < 4
    assert len(script.came) == 1


def test_each_part_of_an_answer_has_only_what_the_parts_before_it_left(script: Scripted):
    script.says = [Says(before_s=1.5, between_s=30)]

    with gpusq.Client(script.url, timeout_s=2) as client:
        started = time.monotonic()
        with pytest.raises(gpusq.OutOfTimeError):
            client.classify(PICTURE)

    # Were the time counted anew for the body, this would take 3.5 s.
    assert time.monotonic() - started < 3.4


def test_a_service_that_is_not_there_is_named(kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()

    with pytest.raises(gpusq.ConnectionFailedError, match=f"127.0.0.1:{port}"):
        ask(kind, f"http://127.0.0.1:{port}", retries=1)

    # One wait of up to 0.2 s, far from the 30 s of a call.
    assert time.monotonic() - started < 5


def test_calls_share_one_connection(kind, script: Scripted):
    with Asker(kind, script.url) as client:
        for _ in range(3):
            client.classify(PICTURE)
        client.classify(PICTURE, top_k=2)

    assert len({came.peer for came in script.came}) == 1
    assert [came.target for came in script.came][-2:] == ["/v1/classify", "/v1/classify?top_k=2"]


def test_a_connection_that_the_service_closed_meanwhile_is_opened_anew(kind, script: Scripted):
    script.says = [Says(), Says(status=0), Says()]

    with Asker(kind, script.url) as client:
        client.classify(PICTURE)
        client.classify(PICTURE)

    assert len(script.came) == 3


def test_a_key_is_sent_as_a_bearer_token_and_in_no_message(kind, script: Scripted):
    script.says = [problem(401, "unauthorized")]

    error = refusal(kind, script.url, api_key="s3cret")

    assert script.came[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in f"{error} {error!r}"


def test_a_redirect_is_not_followed_with_the_key(kind, script: Scripted):
    script.says = [Says(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"})]

    error = refusal(kind, script.url, api_key="s3cret")

    assert error.code == "temporary_redirect"
    assert "http://127.0.0.1:1/elsewhere" in str(error)
    assert len(script.came) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"<html>Welcome to nginx</html>",
        [1, 2],
        {"model": "deit-tiny"},
        {"model": 7},
    ],
    ids=["html", "a list", "a part", "another type"],
)
def test_an_answer_of_something_else_is_told_apart(kind, script: Scripted, said: object):
    script.says = [Says(said=said)]

    with pytest.raises(gpusq.AnswerError, match=r"or something else|the address"):
        ask(kind, script.url)


def test_a_path_before_the_api_is_kept(kind, script: Scripted):
    ask(kind, f"{script.url}/gpu/1/")

    assert script.came[0].target == "/gpu/1/v1/classify"
