"""The command: how it starts, how it refuses to, and how it stops."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import __main__ as command
from service import listening
from service.app import create_app
from service.errors import StartError
from service.executors import choice
from service.rpc.gpusq.v1.vision_pb2 import ClassifyResponse
from service.settings import Settings
from tests import bundles
from tests.service import calling
from tests.service.fakes import FakeExecutor


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command and return its one line of complaint."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["service", *map(str, arguments)])
        assert command.main() == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        line, rest = captured.err.split("\n", 1)
        assert not rest
        return line

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_missing_repository_is_said(fails, tmp_path: Path):
    assert f"no model repository at {tmp_path}/none" in fails("--repository", tmp_path / "none")


def test_an_empty_repository_is_said(fails, tmp_path: Path):
    assert "holds no model" in fails("--repository", tmp_path, "--port", 0)


def test_a_folder_that_is_no_repository_is_said_in_one_line(fails, caplog, tmp_path: Path):
    for name in ("photos", "notes"):
        (tmp_path / name).mkdir()

    line = fails("--repository", tmp_path, "--port", 0)

    assert line.count("config.pbtxt") == 1
    assert "photos" not in line + caplog.text


def test_a_repository_of_broken_models_is_said_with_every_reason(fails, caplog, tmp_path: Path):
    folder = bundles.write_model(tmp_path, "colours")
    shutil.rmtree(folder / "1")

    line = fails("--repository", tmp_path, "--port", 0)

    assert "no model of the repository can be used" in line
    assert "colours: config.pbtxt pins version 1" in line
    assert "colours" not in caplog.text


def test_a_model_that_cannot_be_used_beside_others_is_warned_of_once(caplog, repository: Path):
    settings = Settings(repository=repository)

    app = create_app(settings, choice.load(settings))

    assert caplog.text.count("model broken is unavailable: ") == 1
    app.state.gateway.close()


def test_a_port_that_is_taken_is_said(fails, repository: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        line = fails("--repository", repository, "--port", port)

    assert f"cannot listen at 127.0.0.1:{port}" in line
    assert "--port" in line


@pytest.mark.parametrize(("name", "value"), [("PORT", "many"), ("EXECUTOR", "tpu")])
def test_a_wrong_setting_is_said(fails, monkeypatch, name: str, value: str):
    monkeypatch.setenv(f"GPUSQ_{name}", value)

    line = fails()

    assert f"GPUSQ_{name}" in line
    assert value in line


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TRITON_URL", "http://127.0.0.1:8001", "expected HOST:PORT, without http://, got"),
        ("OTLP_ENDPOINT", "localhost", "expected a URL such as http://127.0.0.1:4318, got"),
        ("DEADLINE_S", "soon", "GPUSQ_DEADLINE_S: Input should be a valid number"),
        ("URL_HOSTS", "https://a.b/c", "GPUSQ_URL_HOSTS: expected HOST or HOST:PORT, got"),
        ("URL_HOSTS", "*", "GPUSQ_URL_HOSTS: expected HOST or HOST:PORT, got"),
        ("GRPC_PORT", "18777", "HTTP and gRPC cannot both listen at port 18777"),
    ],
)
def test_a_setting_that_cannot_be_is_named_as_it_was_written(
    fails, monkeypatch, repository: Path, name: str, value: str, said: str
):
    monkeypatch.setenv(f"GPUSQ_{name}", value)

    assert said in fails("--repository", repository, "--port", 18777)


def test_a_variable_that_is_empty_is_not_set(monkeypatch):
    monkeypatch.setenv("GPUSQ_API_KEYS", "")
    monkeypatch.setenv("GPUSQ_HOST", "")

    assert (Settings().api_keys, Settings().host) == (None, "127.0.0.1")


def test_a_variable_that_is_no_setting_is_warned_of(fails, monkeypatch, caplog, tmp_path: Path):
    monkeypatch.setenv("GPUSQ_TOPK", "3")

    fails("--repository", tmp_path / "none", "--port", 0)

    assert "GPUSQ_TOPK is no setting and changes nothing" in caplog.text


def test_a_default_model_that_cannot_be_used_is_said():
    executor = FakeExecutor(models=("a", "b"))

    with pytest.raises(StartError, match="'c' cannot be used; these can: a, b"):
        create_app(Settings(default_model="c"), executor)

    executor.close()


@pytest.fixture
def started(repository: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The real command on free ports, and its addresses."""
    arguments = ["--repository", str(repository), "--host", "127.0.0.1", "--port", "0"]
    running = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    addresses = {}
    for line in running.stderr:
        if found := re.search(r"ready at ((\w+)://\S+)", line):
            addresses[found[2]] = found[1]
        if "grpc" in addresses:
            break
    else:
        pytest.fail("the service did not start")
    yield running, addresses["http"], addresses["grpc"].removeprefix("grpc://")
    running.kill()
    running.wait()
    running.stderr.close()


@pytest.fixture
def process(started) -> tuple[subprocess.Popen[str], str]:
    """The real command on a free port, and its address."""
    return started[:2]


def test_before_a_stop_readiness_ends_and_everything_is_still_answered(process, red_jpeg: bytes):
    running, address = process
    kind = {"Content-Type": "image/jpeg"}
    with httpx.Client(base_url=address, timeout=20) as client:
        assert client.get("/readyz").status_code == 200
        assert "connection" not in client.get("/healthz").headers
        running.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            pass
        answer = client.post("/v1/classify", content=red_jpeg, headers=kind)
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    # Whoever asks twice does not want to wait.
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_accepted_and_ends_with_zero(process, stop, red_jpeg: bytes):
    running, address = process
    transport = httpx.HTTPTransport(retries=5)
    half_sent, stopped = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield red_jpeg[:100]
        half_sent.set()
        stopped.wait(10)
        yield red_jpeg[100:]

    answers = []

    def send() -> None:
        with httpx.Client(transport=transport, timeout=20) as client:
            kind = {"Content-Type": "image/jpeg"}
            answers.append(client.post(f"{address}/v1/classify", content=body(), headers=kind))

    sender = threading.Thread(target=send)
    sender.start()
    half_sent.wait(10)
    while "gpusq_in_flight 1.0" not in httpx.get(f"{address}/metrics").text:
        pass
    running.send_signal(stop)
    stopped.set()
    sender.join()

    code = running.wait(20)
    assert code == 0, running.stderr.read()
    assert answers[0].json()["predictions"][0]["label"] == "red"
    log = running.stderr.read()
    assert '"POST /v1/classify" 200' in log
    assert "Traceback" not in log
    assert log.endswith("service: stopped\n")


def test_a_stop_answers_the_calls_that_were_accepted(started, red_jpeg: bytes):
    running, _, address = started
    stopped = threading.Event()

    def late() -> Iterator[bytes]:
        stopped.wait(10)
        yield calling.message("Classify", image=red_jpeg).SerializeToString()

    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        call = channel.stream_unary("/gpusq.v1.Vision/Classify").future(late(), timeout=20)
        watching = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        running.send_signal(signal.SIGINT)
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        stopped.set()
        answer = ClassifyResponse.FromString(call.result())

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert answer.predictions[0].label == "red"
    assert running.wait(20) == 0
    log = running.stderr.read()
    assert '"gRPC /gpusq.v1.Vision/Classify" OK' in log
    assert "Traceback" not in log
    assert log.endswith("service: stopped\n")


@pytest.mark.slow
def test_a_second_interrupt_waits_for_no_call(started):
    running, _, address = started
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(20)
        yield from ()

    with grpc.insecure_channel(address) as channel:
        call = channel.stream_unary("/gpusq.v1.Vision/Classify").future(never(), timeout=20)
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watching)
        running.send_signal(signal.SIGINT)
        next(watching)
        running.send_signal(signal.SIGINT)
        # Long before the 25 s that a stop waits.
        assert running.wait(10) == 0
        ended.set()
        assert call.code() is not grpc.StatusCode.OK


def test_a_port_of_grpc_that_is_taken_is_said(fails, monkeypatch, repository: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("GPUSQ_GRPC_PORT", str(port))

        line = fails("--repository", repository, "--port", 0)

    assert f"cannot listen at 127.0.0.1:{port}" in line
    assert "GPUSQ_GRPC_PORT" in line


def test_a_port_of_grpc_that_is_taken_while_models_load_is_said(repository: Path):
    settings = Settings(repository=repository, grpc_port=0)
    with listening.grpc(settings) as listener:
        app = create_app(settings, choice.load(settings), listener)
        with (
            socket.create_server(listener.getsockname()),
            pytest.raises(StartError, match="for gRPC: somebody else has taken it"),
        ):
            asyncio.run(app.state.rpc.bind())
    app.state.gateway.close()


def test_grpc_can_be_left_out(fails, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("GPUSQ_GRPC", "false")
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("GPUSQ_GRPC_PORT", str(other.getsockname()[1]))

        line = fails("--repository", tmp_path / "none", "--port", 0)

    assert "no model repository" in line


def test_help_explains_with_an_example():
    shown = subprocess.run(
        [sys.executable, "-m", "service", "--help"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "gpusq serve --repository model_repository --host 127.0.0.1 --port 8000" in shown
    assert "/v1/classify" in shown
