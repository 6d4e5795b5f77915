"""The Open Inference Protocol over both transports, with real networks on a real server.

Over gRPC Triton's own client asks; over HTTP the bytes are written as the specification has them.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc as triton

from service.executors.executor import TensorSpec
from tests import finding
from tests.conftest import Serve, encoded
from tests.service import asking, inferring
from tests.service.fakes import FakeExecutor
from tests.service.inferring import (
    MAX_BODY_BYTES,
    NOISE,
    Served,
    both,
    failed,
    files,
    outputs,
    pixels,
    post,
    refused,
    triton_input,
)

RED, BLUE = (encoded(Image.new("RGB", (64, 48), colour)) for colour in ("red", "blue"))
SCENE = encoded(finding.scene((320, 240), {"red": (20, 24, 120, 100)}))


@pytest.fixture(scope="module")
def served(scene_repository: Path, serve: Serve) -> Iterator[Served]:
    with inferring.serving_scenes(scene_repository, serve) as served:
        yield served


@pytest.fixture
def fake(serve: Serve) -> Iterator[tuple[Served, FakeExecutor]]:
    with inferring.serving_fake(serve) as served:
        yield served


def test_scores_are_those_of_classify_to_the_last_digit(served: Served):
    for picture in (RED, BLUE):
        answer = asking.post(served.rest, picture, top_k=4, model="colours").json()
        by_index = {p["index"]: p["score"] for p in answer["predictions"]}
        [scores] = both(served, [picture])["scores"]
        assert [by_index[index] for index in range(4)] == [float(score) for score in scores]


def test_pixels_give_what_each_picture_alone_gives(served: Served):
    scores = both(served, NOISE)["scores"]

    assert scores.shape == (3, 4)
    for row, images in zip(scores, NOISE, strict=True):
        # A batch may be summed in another order.
        np.testing.assert_allclose(both(served, images[None])["scores"][0], row, rtol=1e-6)


@pytest.mark.parametrize(
    "wanted", [[], ["scores"], ["masks", "labels"], ["boxes", "scores", "labels", "masks"]]
)
def test_outputs_are_those_that_are_wanted(served: Served, wanted: list[str]):
    found = both(served, [SCENE], "shapes", wanted)

    assert list(found) == (wanted or ["scores", "labels", "boxes", "masks"])
    if "labels" in found:
        assert found["labels"].tolist() == [[0, 1, 2, 3]]


def test_a_class_map_is_given_as_the_network_makes_it(served: Served):
    found = both(served, [SCENE, SCENE], "areas")["class_map"]

    assert (found.shape, found.dtype) == ((2, 120, 160), np.uint8)


@pytest.mark.parametrize("binary_output", [True, False, None])
@pytest.mark.parametrize("binary_input", [True, False])
def test_json_and_binary_data_say_the_same(
    served: Served, binary_input: bool, binary_output: bool | None
):
    sent = {"name": "image", "shape": [3, 8, 8, 3], "datatype": "UINT8"}
    sent |= {"parameters": {"binary_data_size": NOISE.nbytes}} if binary_input else {
        "data": NOISE.tolist()
    }  # fmt: skip
    said = {} if binary_output is None else {"parameters": {"binary_data": binary_output}}
    request = {"inputs": [sent], "outputs": [{"name": "scores", **said}]}
    answer = post(served.rest, request, NOISE.tobytes() if binary_input else b"")

    np.testing.assert_array_equal(outputs(answer)["scores"], both(served, NOISE)["scores"])
    kind = "application/octet-stream" if binary_output else "application/json"
    assert answer.headers["content-type"] == kind
    assert (inferring.HEADER_LENGTH in answer.headers) == bool(binary_output)


def test_one_output_may_be_binary_beside_another_in_json(served: Served):
    request = {
        "inputs": [files(SCENE)],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "labels", "parameters": {"binary_data": False}}, {"name": "masks"}],
    }
    answer = post(served.rest, request, inferring.elements(SCENE), "shapes/infer")

    found = outputs(answer)
    assert list(found) == ["labels", "masks"]
    np.testing.assert_array_equal(found["masks"], both(served, [SCENE], "shapes")["masks"])


@pytest.mark.parametrize("path", ["colours/infer", "colours/versions/1/infer"])
def test_an_answer_says_who_gave_it_and_to_what(served: Served, path: str):
    request = {"id": "seven", "inputs": [pixels(NOISE)], "parameters": {"mine": [1]}}
    answer = post(served.rest, request, NOISE.tobytes(), path)

    said = answer.json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("colours", "1", "seven")
    assert said["outputs"][0].keys() == {"name", "datatype", "shape", "data"}
    assert asking.server_timing(answer).keys() >= {"read", "infer", "total"}
    rpc = served.rpc.infer(
        "colours", [triton_input(NOISE)], "1", request_id="seven", parameters={"mine": 1}
    ).get_response()
    assert (rpc.model_name, rpc.model_version, rpc.id) == ("colours", "1", "seven")


def test_a_body_without_json_is_one_picture(served: Served):
    alone = {inferring.HEADER_LENGTH: "0"}
    path = "/v2/models/colours/infer"

    for body, same in ((RED, [RED]), (NOISE[:1].tobytes(), NOISE[:1])):
        found = outputs(served.rest.post(path, content=body, headers=alone))
        np.testing.assert_array_equal(found["scores"], both(served, same)["scores"])


def test_gRPC_takes_values_in_the_message_too(served: Served):  # noqa: N802
    message = triton.service_pb2.ModelInferRequest(model_name="colours")
    message.inputs.add(name="image", datatype="UINT8", shape=NOISE.shape)
    message.inputs[0].contents.uint_contents.extend(NOISE.ravel().tolist())
    stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(served.rpc._channel)

    [scores] = stub.ModelInfer(message).raw_output_contents
    assert scores == both(served, NOISE)["scores"].tobytes()
    message.inputs[0].datatype = "BYTES"
    message.inputs[0].shape[:] = [1]
    message.inputs[0].contents.bytes_contents.append(RED)
    [scores] = stub.ModelInfer(message).raw_output_contents
    assert scores == both(served, [RED])["scores"].tobytes()


WRONG: dict[str, tuple[Any, str]] = {
    "type": (NOISE.astype(np.float32), "got 'FP32' [3, 8, 8, 3]."),
    "shape": (NOISE[:, :4], "got 'UINT8' [3, 4, 8, 3]."),
    "batch": (np.zeros((65, 8, 8, 3), np.uint8), "pictures at once, got 65."),
    "picture": ([b"GET / HTTP/1.1"], "in none of these formats"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_the_network_does_not_take_is_refused_in_the_same_words(served: Served, kind: str):
    values, said = WRONG[kind]
    if isinstance(values, np.ndarray):
        sent, binary = pixels(values), values.tobytes()
        sent["datatype"] = triton.np_to_triton_dtype(values.dtype)
    else:
        sent, binary = files(*values), inferring.elements(*values)

    rest = refused(post(served.rest, {"inputs": [sent]}, binary))
    assert said in rest
    assert failed(served, triton_input(values)) == ("INVALID_ARGUMENT", rest)


def test_names_that_nothing_has_are_refused(served: Served):
    nope = {"inputs": [pixels(NOISE)], "outputs": [{"name": "nope"}]}
    twice = {"inputs": [pixels(NOISE)], "outputs": [{"name": "scores"}] * 2}
    other = {"inputs": [pixels(NOISE, name="pixels")]}

    said = refused(post(served.rest, nope, NOISE.tobytes()))
    assert said == "The model 'colours' has no output 'nope'. It has: scores."
    asked = [triton.InferRequestedOutput("nope")]
    assert failed(served, triton_input(NOISE), outputs=asked) == ("INVALID_ARGUMENT", said)
    assert "twice" in refused(post(served.rest, twice, NOISE.tobytes()))
    assert "Expected one input, 'image', got 'pixels'." in refused(
        post(served.rest, other, NOISE.tobytes())
    )


def test_a_full_service_says_when_to_come_again(fake: tuple[Served, FakeExecutor]):
    served, executor = fake
    request = {"inputs": [pixels(NOISE[:1])], "parameters": {"timeout": 300_000}}

    async def ask() -> list[httpx.Response]:
        executor.gate = asyncio.Event()
        header = str(len(inferring.json.dumps(request)))
        body = inferring.json.dumps(request).encode() + NOISE[:1].tobytes()
        async with httpx.AsyncClient(base_url=served.rest.base_url, timeout=20) as client:
            sent = (
                client.post(
                    "/v2/models/colours/infer",
                    content=body,
                    headers={inferring.HEADER_LENGTH: header},
                )
                for _ in range(4)
            )
            return await asyncio.gather(*sent)

    answers = asyncio.run(ask())
    by_status = {s: [*g] for s, g in itertools.groupby(answers, lambda a: a.status_code)}
    assert {*by_status} == {429, 504}
    for answer in itertools.chain(*by_status.values()):
        assert refused(answer, answer.status_code)
        assert int(answer.headers["retry-after"]) >= 1


def test_time_that_the_client_gives_ends_a_request(fake: tuple[Served, FakeExecutor]):
    served, executor = fake
    executor.gate = asyncio.Event()
    timed = {"inputs": [pixels(NOISE[:1])], "parameters": {"timeout": 50_000}}
    plain = {"inputs": [pixels(NOISE[:1])]}
    binary = NOISE[:1].tobytes()

    rpc = failed(served, triton_input(NOISE[:1]), timeout=50_000)
    assert rpc[0] == "DEADLINE_EXCEEDED"
    for said in (
        rpc[1],
        refused(post(served.rest, timed, binary), 504),
        refused(post(served.rest, plain, binary, headers={"X-Request-Timeout": "0.05"}), 504),
    ):
        within_s = re.fullmatch(r"There was no answer within ([\d.]+) s\. .*", said)
        # The gateway's own deadline is 2 s.
        assert within_s
        assert 0.05 <= float(within_s[1]) < 1.5
    assert failed(served, triton_input(NOISE[:1]), client_timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    wrong = post(served.rest, plain, binary, headers={"X-Request-Timeout": "soon"})
    assert "X-Request-Timeout: expected" in refused(wrong)


def test_what_would_be_ignored_and_answered_wrongly_is_refused(served: Served):
    shared = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
    shared.set_shared_memory("region", 192)
    ranked = [triton.InferRequestedOutput("scores", class_count=2)]
    said = (failed(served, shared), failed(served, triton_input(NOISE), outputs=ranked))

    assert [code for code, _ in said] == ["INVALID_ARGUMENT"] * 2
    region = {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8"}
    region["parameters"] = {"shared_memory_region": "region", "shared_memory_byte_size": 192}
    classes = [{"name": "scores", "parameters": {"classification": 2}}]
    assert refused(post(served.rest, {"inputs": [region]})) == said[0][1]
    request = {"inputs": [pixels(NOISE)], "outputs": classes}
    assert refused(post(served.rest, request, NOISE.tobytes())) == said[1][1]


def test_a_request_may_be_larger_than_a_picture(served: Served):
    noise = np.random.default_rng(3).integers(0, 256, (240, 250, 3), np.uint8)
    picture = encoded(Image.fromarray(noise))
    # What a message may have beside one picture is a megabyte.
    assert len(picture) < MAX_BODY_BYTES < MAX_BODY_BYTES + (1 << 20) < 8 * len(picture)

    assert both(served, [picture] * 8)["scores"].shape == (8, 4)
    larger = encoded(Image.fromarray(np.concatenate([noise, noise])))
    said = refused(post(served.rest, {"inputs": [files(larger)]}, inferring.elements(larger)), 413)
    assert f"A picture may have {MAX_BODY_BYTES:,} bytes" in said
    assert failed(served, triton_input([larger])) == ("RESOURCE_EXHAUSTED", said)


def test_an_output_that_a_new_version_no_longer_has_is_refused(
    fake: tuple[Served, FakeExecutor],
):
    served, executor = fake
    old = executor.models["colours"]
    spec = TensorSpec("classes", "float32", (-1, 4))
    # As if it had been replaced by another graph between the request and the network.
    executor.models["colours"] = replace(old, outputs=(*old.outputs, spec))
    served.app.state.gateway.catalogue.take_up()
    request = {"inputs": [pixels(NOISE[:1])], "outputs": [{"name": "classes"}]}

    said = refused(post(served.rest, request, NOISE[:1].tobytes()))
    assert said == "The model 'colours' has no output 'classes'. It has: scores."
    assert list(both(served, NOISE[:1])) == ["scores"]


def test_requests_are_counted_by_outcome(fake: tuple[Served, FakeExecutor]):
    served, _ = fake
    both(served, NOISE[:1])
    post(served.rest, {"inputs": []})
    post(served.rest, {}, path="nothing/infer")
    served.rest.get("/v2/models/colours/infer")

    text = served.rest.get("/metrics").text
    for count, model, outcome in (
        (2, "colours", "ok"),
        (1, "colours", "invalid_argument"),
        (1, "", "unknown_model"),
        (1, "colours", "method_not_allowed"),
    ):
        line = f'gpusq_requests_total{{model="{model}",outcome="{outcome}",task="infer"}} {count}.0'
        assert line in text
