"""What the Open Inference Protocol says of the server and its models, over both transports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc as triton

from contract.card import ModelCard
from service.errors import VersionGoneError
from service.executors.triton import TritonExecutor
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.service import inferring
from tests.service.fakes import FakeExecutor
from tests.service.inferring import (
    NOISE,
    Served,
    both,
    failed,
    pixels,
    post,
    refused,
    triton_input,
)


@pytest.fixture(scope="module")
def served(scene_repository: Path, serve: Serve) -> Iterator[Served]:
    with inferring.serving_scenes(scene_repository, serve) as served:
        yield served


@pytest.fixture
def fake(serve: Serve) -> Iterator[tuple[Served, FakeExecutor]]:
    with inferring.serving_fake(serve) as served:
        yield served


@pytest.mark.parametrize(
    ("path", "status", "code", "said"),
    [
        ("nothing", 404, "NOT_FOUND", "There is no model 'nothing'. There are: areas, "),
        ("colours/versions/7", 404, "NOT_FOUND", "There is no version 7 of the model 'colours'"),
        ("colours/versions/new", 400, "INVALID_ARGUMENT", "as a whole number, got 'new'."),
        (f"colours/versions/{'9' * 5000}", 400, "INVALID_ARGUMENT", "as a whole number, got '999"),
        ("colours/versions/٣", 400, "INVALID_ARGUMENT", "as a whole number"),
    ],
)
def test_a_model_or_version_that_is_not_there(
    served: Served, path: str, status: int, code: str, said: str
):
    model, _, version = path.partition("/versions/")
    what: list[tuple[Any, httpx.Response]] = [
        (served.rpc.get_model_metadata, served.rest.get(f"/v2/models/{path}")),
        (served.rpc.get_model_config, served.rest.get(f"/v2/models/{path}/config")),
        (served.rpc.get_inference_statistics, served.rest.get(f"/v2/models/{path}/stats")),
        (
            lambda name, version: served.rpc.infer(name, [triton_input(NOISE)], version),
            post(served.rest, {"inputs": [pixels(NOISE)]}, NOISE.tobytes(), f"{path}/infer"),
        ),
    ]
    for ask, rest in what:
        with pytest.raises(triton.InferenceServerException) as caught:
            ask(model, version)
        assert caught.value.status() == f"StatusCode.{code}"
        assert refused(rest, status) == caught.value.message()
        assert said in caught.value.message()


def test_what_is_said_of_the_server_and_its_models_is_the_same(served: Served):
    shapes = "/v2/models/shapes"
    for rest, rpc in (
        (served.rest.get("/v2"), served.rpc.get_server_metadata(as_json=True)),
        (served.rest.get(shapes), served.rpc.get_model_metadata("shapes", as_json=True)),
        (
            served.rest.post("/v2/repository/index", content=b""),
            served.rpc.get_model_repository_index(as_json=True).get("models"),
        ),
        (
            served.rest.get(f"{shapes}/config"),
            served.rpc.get_model_config("shapes", as_json=True)["config"],
        ),
    ):
        assert plain(rest.json()) == plain(rpc)


def plain(said: Any) -> Any:
    """Return JSON as protobuf writes it: numbers of 64 bits as text, nothing that is empty."""
    if isinstance(said, dict):
        return {key: plain(value) for key, value in said.items() if value not in ("", [], 0)}
    if isinstance(said, list):
        return [plain(value) for value in said]
    return str(said)


def test_the_metadata_says_what_a_network_takes_and_gives(served: Served):
    assert served.rest.get("/v2/models/shapes/versions/1").json() == {
        "name": "shapes",
        "versions": ["1"],
        "platform": "onnxruntime",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 120, 160, 3]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "labels", "datatype": "INT32", "shape": [-1, 4]},
            {"name": "boxes", "datatype": "FP32", "shape": [-1, 4, 4]},
            {"name": "masks", "datatype": "FP32", "shape": [-1, 4, 28, 28]},
        ],
    }


def test_the_configuration_has_the_card_and_the_largest_batch(served: Served):
    config = served.rest.get("/v2/models/areas/config").json()

    texts = {key: value["string_value"] for key, value in config["parameters"].items()}
    assert ModelCard.from_parameters(texts) == finding.card("segment")
    largest = np.zeros((config["max_batch_size"], 120, 160, 3), np.uint8)
    assert both(served, largest, "areas")["class_map"].shape == largest.shape[:3]
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [120, 160, 3]}]


def test_a_gateway_can_stand_in_front_of_another_as_if_it_were_triton(served: Served):
    async def ask() -> Any:
        executor = TritonExecutor(served.grpc_url, concurrency=1, timeout_s=20, check_s=60)
        found = asyncio.Event()
        watching = asyncio.create_task(executor.watch(found.set, lambda _: None))
        await found.wait()
        answer = await executor.infer("colours", NOISE)
        watching.cancel()
        return executor, answer["scores"]

    executor, scores = asyncio.run(ask())
    assert executor.unavailable == {}
    assert executor.models.keys() == served.rest.get("/readyz").json()["models"].keys()
    assert executor.models["shapes"].card == finding.card("detect")
    np.testing.assert_array_equal(scores, both(served, NOISE)["scores"])


class Replaced(FakeExecutor):
    """Has another version by the time that it is asked."""

    def take_up(self) -> None:
        """Tell the gateway; it sets this."""

    async def watch(self, changed: Callable[[], None], *more: Any) -> None:
        self.take_up = changed

    async def infer(self, model: str, images: Any, version: Any = None, timeout_s: Any = None):
        if version == 3:
            self.models = {name: replace(m, version=4) for name, m in self.models.items()}
            self.take_up()
            raise VersionGoneError("version 3 is no longer served")
        return await super().infer(model, images, version, timeout_s)


@pytest.mark.parametrize(("asked", "answered"), [("", "4"), ("3", None)])
def test_a_version_that_is_named_is_the_one_that_answers(
    serve: Serve, asked: str, answered: str | None
):
    with inferring.serving(serve, Settings(), Replaced()) as served:
        if answered is not None:
            answer = served.rpc.infer("colours", [triton_input(NOISE[:1])], asked)
            assert answer.get_response().model_version == answered
        else:
            code, said = failed(served, triton_input(NOISE[:1]), model_version=asked)
            assert (code, said[:36]) == ("NOT_FOUND", "There is no version 3 of the model '")


def test_statistics_count_pictures_calls_and_time(fake: tuple[Served, FakeExecutor]):
    served, _ = fake
    both(served, NOISE[:1])
    failed(served, triton_input(NOISE[:, :4]))
    both(served, [encoded(Image.new("RGB", (64, 48), "red"))])
    failed(served, triton_input([b"no picture"]))

    [rest] = served.rest.get("/v2/models/colours/stats").json()["model_stats"]
    assert rest["inference_count"] == rest["execution_count"] == 4
    durations = rest["inference_stats"]
    assert {name: spent["count"] for name, spent in durations.items()} == {
        "success": 4, "fail": 1, "queue": 4, "compute_input": 4, "compute_infer": 4,
        "compute_output": 4,
    }  # fmt: skip
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert 0 < sum(durations[part]["ns"] for part in parts) <= durations["success"]["ns"]
    assert abs(rest["last_inference"] / 1000 - time.time()) < 20
    assert served.rest.get("/v2/models/stats").json() == {"model_stats": [rest]}
    rpc = served.rpc.get_inference_statistics("colours", as_json=True)
    assert plain(rpc["model_stats"]) == plain([rest])


def test_statistics_count_every_picture_of_a_batch(served: Served):
    def counted() -> tuple[int, int]:
        [said] = served.rest.get("/v2/models/colours/stats").json()["model_stats"]
        return said["inference_count"], said["execution_count"]

    pictures, calls = counted()
    both(served, NOISE)
    assert counted() == (pictures + 6, calls + 2)


def test_a_model_that_is_unavailable_says_so(fake: tuple[Served, FakeExecutor]):
    served, executor = fake
    rest, rpc = served.rest, served.rpc

    assert (rpc.is_server_live(), rpc.is_server_ready()) == (True, True)
    assert (rpc.is_model_ready("colours"), rpc.is_model_ready("colours", "3")) == (True, True)
    assert not any(map(rpc.is_model_ready, ("broken", "nothing")))
    assert [rest.get(f"/v2/health/{kind}").status_code for kind in ("live", "ready")] == [200, 200]
    assert rest.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}
    assert rest.get("/v2/models/broken/ready").status_code == 503
    assert "There is no model" in refused(rest.get("/v2/models/nothing/ready"), 404)
    assert "it has no card" in refused(rest.get("/v2/models/broken"), 503)
    assert rest.post("/v2/repository/index", json={}).json() == [
        {"name": "broken", "version": "", "state": "UNAVAILABLE", "reason": "it has no card"},
        {"name": "colours", "version": "3", "state": "READY", "reason": ""},
    ]
    assert [m["name"] for m in rest.post("/v2/repository/index", json={"ready": True}).json()] == [
        "colours"
    ]
    executor.down = "Triton is away."
    assert not rpc.is_model_ready("colours")
    assert "Triton is away." in refused(rest.get("/v2/models/colours"), 503)


def test_what_triton_offers_and_this_does_not_is_unimplemented(served: Served):
    for ask in (
        lambda: served.rpc.load_model("colours"),
        served.rpc.get_system_shared_memory_status,
        served.rpc.get_log_settings,
    ):
        with pytest.raises(triton.InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert refused(served.rest.post("/v2/repository/models/colours/load"), 404)
    assert refused(served.rest.get("/v2/models/colours/infer"), 405)


def test_an_alias_is_asked_and_described_as_the_model_behind_it(serve: Serve, tmp_path: Path):
    routes = tmp_path / "routes.json"
    routes.write_text('{"aliases": {"any-colour": {"colours": 1}}}', encoding="utf-8")
    settings = Settings(routes=routes, decode_threads=1)
    with inferring.serving(serve, settings, FakeExecutor()) as served:
        described = served.rest.get("/v2/models/any-colour").json()
        assert described["inputs"] == served.rest.get("/v2/models/colours").json()["inputs"]
        assert served.rpc.is_model_ready("any-colour")
        answer = served.rpc.infer("any-colour", [triton_input(NOISE[:1])])
        assert answer.get_response().model_name == "colours"
