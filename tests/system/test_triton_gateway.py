"""The gateway in front of a real Triton: the same answers, and what happens when Triton is hurt."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tritonclient.grpc import InferenceServerClient

from compress.plan.repository import publish
from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests import finding
from tests.bundles import colour_card, colour_graph, write_bundle
from tests.contract.pictures import encoded, photo
from tests.system import triton_server

pytestmark = pytest.mark.triton

RUNTIME = "onnxruntime"
# Of probabilities.
TOLERANCE = 1e-3
SCENE = encoded(finding.scene((160, 120), {"red": (9, 10, 49, 70), "blue": (90, 20, 150, 88)}))
EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")


@pytest.fixture(scope="module")
def installation():
    return triton_server.install(RUNTIME)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    models = {
        "colours": (colour_graph(), colour_card(("röd", "grön", "blå", "svart"))),
        "shapes": (finding.detector(), finding.card("detect")),
        "areas": (finding.segmenter(), finding.card("segment")),
    }
    for name, (graph, card) in models.items():
        (tmp_path / name).mkdir()
        publish(write_bundle(tmp_path / name, graph, card), folder, name, backend="python")
    return folder


def gateway(
    executor: str, repository: Path, address: str = "127.0.0.1:1", region_bytes: int = 0
) -> TestClient:
    settings = Settings(
        executor=executor, repository=repository, triton_url=address, triton_check_s=0.5,
        default_model="colours", deadline_s=1.5, triton_shared_memory_bytes=region_bytes,
    )  # fmt: skip
    return TestClient(create_app(settings, choice.load(settings)))


def until(condition, timeout_s=30.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(0.05)


def ready(client: TestClient) -> bool:
    return client.get("/readyz").status_code == 200


def ask(client: TestClient, path: str = "classify", picture: bytes | None = None):
    headers = {"Content-Type": "image/png"}
    return client.post(f"/v1/{path}", content=picture or encoded(photo(40, 30)), headers=headers)


def close_to(one, other) -> bool:
    """Whether two answers are the same but for the last digits of their numbers, and the times."""
    if isinstance(one, dict):
        keys = one.keys() - {"timings_ms"}
        return keys == other.keys() - {"timings_ms"} and all(
            close_to(one[key], other[key]) for key in keys
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close_to, one, other))
    if isinstance(one, float):
        return bool(np.isclose(one, other, atol=TOLERANCE))
    return one == other


def worker_of(server) -> int:
    """Return the process that runs `colours`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"stub" in words[0] and any(b"/colours/" in word for word in words):
            assert parent == server.pid
            return int(folder.name)
    raise AssertionError("no worker")


@pytest.mark.parametrize("region_bytes", [0, 1 << 20, 100])
def test_rest_answers_the_same_over_triton_and_embedded(
    installation, repository, tmp_path, region_bytes
):
    with (
        triton_server.running(installation, repository, tmp_path / "log") as address,
        gateway("triton", repository, address, region_bytes) as theirs,
        gateway(RUNTIME, repository) as ours,
    ):
        until(lambda: ready(theirs))
        assert theirs.get("/readyz").json() == ours.get("/readyz").json()
        for path in ("classify", "detect?masks=rle", "segment?format=rle"):
            one, other = (ask(client, path, SCENE) for client in (theirs, ours))
            assert (one.status_code, other.status_code) == (200, 200), one.text
            assert close_to(one.json(), other.json())
        with InferenceServerClient(address) as triton:
            regions = triton.get_system_shared_memory_status(as_json=True).get("regions", {})
        assert len(regions) == (16 if region_bytes else 0)


@pytest.mark.parametrize("region_bytes", [0, 1 << 20])
def test_a_triton_killed_and_started_again_is_found_again(
    installation, repository, tmp_path, region_bytes
):
    with triton_server.controlled(installation, repository, tmp_path / "log") as (address, server):
        client = gateway("triton", repository, address, region_bytes)
        with client:
            until(lambda: ready(client))
            server.kill()
            server.wait()
            answer = ask(client)
            assert answer.status_code == 503
            assert answer.json()["code"] == "executor_unavailable"
            assert int(answer.headers["Retry-After"]) >= 1
            until(lambda: not ready(client))
            port = int(address.rpartition(":")[2])
            with triton_server.controlled(installation, repository, tmp_path / "again", port=port):
                until(lambda: ready(client))
                assert ask(client).status_code == 200


def test_a_triton_that_stands_still_is_answered_for_in_time(installation, repository, tmp_path):
    with (
        triton_server.controlled(installation, repository, tmp_path / "log") as (address, server),
        gateway("triton", repository, address) as client,
    ):
        until(lambda: ready(client))
        server.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        answer = ask(client)
        assert answer.json()["code"] in ("deadline_exceeded", "executor_unavailable")
        assert time.monotonic() - began_s < 2.5
        until(lambda: not ready(client))
        assert ask(client).json()["code"] == "executor_unavailable"
        server.send_signal(signal.SIGCONT)
        until(lambda: ready(client))
        assert ask(client).status_code == 200


def test_a_dead_worker_makes_its_model_unavailable_until_it_is_loaded_again(
    installation, repository, tmp_path
):
    with (
        triton_server.controlled(installation, repository, tmp_path / "log", *EXPLICIT) as (
            address,
            server,
        ),
        gateway("triton", repository, address) as client,
        InferenceServerClient(address) as triton,
    ):
        until(lambda: ready(client))
        os.kill(worker_of(server), signal.SIGKILL)
        until(lambda: not ready(client))
        assert triton.is_model_ready("colours")
        assert client.get("/readyz").json()["models"]["shapes"] == "ready"
        assert ask(client).json()["code"] == "model_unavailable"
        assert ask(client, "detect", SCENE).status_code == 200
        triton.unload_model("colours")
        until(lambda: not triton.is_model_ready("colours"))
        triton.load_model("colours")
        until(lambda: ready(client))
        assert ask(client).status_code == 200


def test_a_version_that_triton_loads_is_taken_up(installation, repository, tmp_path):
    with (
        triton_server.running(installation, repository, tmp_path / "log", *EXPLICIT) as address,
        gateway("triton", repository, address) as client,
        InferenceServerClient(address) as triton,
    ):
        until(lambda: ready(client))
        bundle = write_bundle(tmp_path / "again", colour_graph(), colour_card())
        publish(bundle, repository, "colours", backend="python")
        triton.load_model("colours")
        answer = ask(client)
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["label"] in ("red", "green", "blue", "black")


def test_requests_in_flight_end_well_when_a_version_is_replaced(installation, repository, tmp_path):
    with (
        triton_server.running(installation, repository, tmp_path / "log", *EXPLICIT) as address,
        gateway("triton", repository, address) as client,
        InferenceServerClient(address) as triton,
        ThreadPoolExecutor(4) as askers,
    ):
        until(lambda: ready(client))
        bundle = write_bundle(tmp_path / "again", colour_graph(), colour_card())
        publish(bundle, repository, "colours", backend="python")
        loaded = threading.Event()

        def keep_asking():
            answers = []
            while not loaded.is_set():
                answers.append(ask(client))
            return [*answers, ask(client)]

        asking = [askers.submit(keep_asking) for _ in range(4)]
        try:
            triton.load_model("colours")
            time.sleep(1)
        finally:
            loaded.set()
        answers = [answer for task in asking for answer in task.result()]

    assert [answer.text for answer in answers if answer.status_code != 200] == []
    labels = {answer.json()["predictions"][0]["label"] for answer in answers}
    assert labels & {"red", "green", "blue", "black"}
    assert labels & {"röd", "grön", "blå", "svart"}
