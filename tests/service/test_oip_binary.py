"""Bodies of the Open Inference Protocol: binary tensor data, packed bodies, and nonsense."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from tritonclient import grpc as triton

from service.rest.oip_body import MAX_JSON_BYTES, TensorBody
from tests.conftest import Serve
from tests.service import inferring
from tests.service.inferring import (
    HEADER_LENGTH,
    MAX_TENSOR_BYTES,
    NOISE,
    Served,
    outputs,
    pixels,
    post,
    refused,
)

# make test-system looks longer.
EXAMPLES: Final = int(os.environ.get("GPUSQ_TEST_EXAMPLES", "25"))
SEARCH = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 25,
    suppress_health_check=list(HealthCheck),
)
INFER: Final = "/v2/models/colours/infer"
ONE: Final = NOISE[:1]
HEADER: Final = json.dumps({"inputs": [pixels(ONE)]}).encode()


@pytest.fixture(scope="module")
def served(scene_repository: Path, serve: Serve) -> Iterator[Served]:
    with inferring.serving_scenes(scene_repository, serve) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> httpx.Client:
    return served.rest


def send(client: httpx.Client, body: bytes, length: object = None, **headers: str) -> Any:
    lengths = {} if length is None else {HEADER_LENGTH: str(length)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(INFER, content=body, headers={**lengths, **named})


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [(gzip.compress, "gzip"), (zlib.compress, "deflate"), (bytes, "identity"), (bytes, "")],
)
def test_a_packed_body_is_unpacked(client: httpx.Client, pack: Any, encoding: str):
    body = HEADER + ONE.tobytes()
    answer = send(client, pack(body), len(HEADER), Content_Encoding=encoding)

    np.testing.assert_array_equal(
        outputs(answer)["scores"], outputs(send(client, body, len(HEADER)))["scores"]
    )


def test_a_body_that_is_large_only_once_unpacked_is_not_unpacked(client: httpx.Client):
    bomb = gzip.compress(bytes(30_000_000), 1)
    assert len(bomb) < MAX_TENSOR_BYTES / 5

    said = refused(send(client, bomb, 0, Content_Encoding="gzip"), 413)

    assert said.startswith("A body may have 1,500,000 bytes, this one has more, unpacked.")


@pytest.mark.parametrize(
    ("body", "encoding", "said"),
    [
        (b"as it is", "gzip", "The body is not packed by gzip: "),
        (gzip.compress(HEADER)[:-9], "gzip", "does not end where what gzip packed ends."),
        (gzip.compress(HEADER) + b"more", "gzip", "does not end where what gzip packed ends."),
        (b"", "deflate", "does not end where what deflate packed ends."),
        (b"x", "br", "Expected a body as it is, or packed by gzip or deflate, got 'br'."),
    ],
)
def test_a_body_packed_wrongly_is_refused(
    client: httpx.Client, body: bytes, encoding: str, said: str
):
    assert said in refused(send(client, body, Content_Encoding=encoding))


def test_large_json_is_told_to_send_binary_data(client: httpx.Client):
    data = [255] * (MAX_JSON_BYTES // 5)
    request = {"inputs": [{"name": "image", "shape": [1], "datatype": "UINT8", "data": data}]}

    assert "The JSON of a request may have 1,200,000 bytes" in refused(post(client, request), 413)


def test_a_body_over_the_limit_is_refused(client: httpx.Client):
    answer = send(client, bytes(MAX_TENSOR_BYTES + 1))

    assert "1,500,001. Send fewer pictures at once." in refused(answer, 413)
    assert answer.headers["connection"] == "close"
    chunks = (bytes(100_000) for _ in range(16))
    assert "this one has more" in refused(client.post(INFER, content=chunks), 413)


WRONG: dict[str, tuple[bytes, object, str]] = {
    "nothing": (b"", None, "The request is no JSON"),
    "no picture": (b"", 0, "got an empty file"),
    "a list": (b"[]", None, "The request: Expected an object."),
    "no tensor": (b'{"inputs": [7]}', None, "inputs.0: Expected an object."),
    "axes of no end": (
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [' + b'"",' * 99 + b"1]}]}",
        None,
        "inputs.0.shape: List should have at most 64 items",
    ),
    "no inputs": (b"{}", None, "inputs: Field required"),
    "not text": (b'{"id": 7, "inputs": []}', None, "id: Input should be a valid string"),
    "not UTF-8": (b'{"id": "\xff", "inputs": []}', None, "The request is no JSON"),
    "the length of nothing": (HEADER, "many", "expected a whole number, got 'many'."),
    "a negative length": (HEADER, -1, "expected a whole number, got '-1'."),
    "a length of many digits": (HEADER, "1" * 5000, "expected a whole number"),
    "longer than all": (HEADER, 10_000, "is 10,000, the body has"),
    "shorter than the JSON": (HEADER, len(HEADER) - 1, "The request is no JSON"),
    "no binary data": (HEADER, None, "announce 192 bytes, 0 are behind the JSON."),
    "less than announced": (HEADER + b"x", len(HEADER), "192 bytes, 1 are behind the JSON."),
    "more than announced": (HEADER + bytes(193), len(HEADER), "bytes, 193 are behind the JSON."),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_body_that_is_not_as_its_header_says_is_refused(client: httpx.Client, kind: str):
    body, length, said = WRONG[kind]

    assert said in refused(send(client, body, length))


def test_each_input_takes_its_own_part_of_the_binary_data(client: httpx.Client):
    half = {**pixels(ONE), "parameters": {"binary_data_size": 96}}

    said = refused(post(client, {"inputs": [half, half]}, bytes(192)))
    assert said == "Expected one input, 'image', got 'image', 'image'."
    assert "announce 192 bytes, 191" in refused(post(client, {"inputs": [half] * 2}, bytes(191)))


@pytest.mark.parametrize(("encoding", "most"), [("", 10), ("gzip", 1000), ("deflate", 1000)])
def test_a_packed_body_counts_as_if_it_were_as_large_as_any(encoding: str, most: int):
    sent = {"content-length": "10", "content-encoding": encoding}
    headers = [(name.encode(), value.encode()) for name, value in sent.items()]

    assert TensorBody(Request({"type": "http", "headers": headers}), 1000).most_bytes == most


def test_data_in_both_places_or_in_none_is_refused(client: httpx.Client):
    twice = {"inputs": [pixels(ONE, data=[0])]}
    none = {"inputs": [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8"}]}

    assert "'image' has data and binary_data_size" in refused(post(client, twice, ONE.tobytes()))
    assert "'image' has neither a list" in refused(post(client, none))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
SIZES = st.sampled_from([0, 1, 96, 191, 192, 193, 2**31, 2**63, 2**70, -1]) | ANYTHING
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "image", "image", "other"]) | ANYTHING,
        "shape": st.sampled_from([[1, 8, 8, 3], [1], [1, 1], [2], [0, 8, 8, 3], [], [2**63]])
        | ANYTHING,
        "datatype": st.sampled_from(["UINT8", "UINT8", "BYTES", "FP32", ""]) | ANYTHING,
    },
    optional={
        "data": st.lists(st.integers(0, 255), min_size=190, max_size=194) | ANYTHING,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": SIZES}) | ANYTHING,
    },
)
WANTED = st.fixed_dictionaries(
    {"name": st.sampled_from(["scores", "nope"]) | ANYTHING},
    optional={"parameters": st.fixed_dictionaries({"binary_data": st.booleans()}) | ANYTHING},
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2) | ANYTHING},
    optional={
        "id": st.text(max_size=5) | ANYTHING,
        "outputs": st.lists(WANTED, max_size=2) | ANYTHING,
        "parameters": st.fixed_dictionaries({"binary_data_output": st.booleans()}) | ANYTHING,
    },
)
TAILS = st.sampled_from([b"", bytes(192), inferring.elements(b"x"), bytes(193)]) | st.binary()


def answered(answer: httpx.Response) -> None:
    """Check that an answer is one of the protocol, whatever was asked."""
    if answer.status_code == 200:
        assert outputs(answer)
    else:
        assert refused(answer, answer.status_code)
        assert answer.status_code in (400, 413)


@SEARCH
@given(REQUESTS, TAILS, st.integers(-3, 3))
def test_no_request_is_answered_but_as_the_protocol_says(
    client: httpx.Client, request: Any, tail: bytes, off: int
):
    header = json.dumps(request).encode()

    answered(send(client, header + tail, max(0, len(header) + off) if tail else None))


@SEARCH
@given(st.binary(), st.none() | st.integers(-1, 20) | st.just("x"), st.sampled_from(["", "gzip"]))
def test_no_bytes_are_answered_but_as_the_protocol_says(
    client: httpx.Client, body: bytes, length: Any, encoding: str
):
    answered(send(client, body, length, Content_Encoding=encoding))


MESSAGES = st.fixed_dictionaries(
    {
        "raw": st.lists(TAILS, max_size=2),
        "inputs": st.lists(
            st.tuples(
                st.sampled_from(["image", "image", "other"]),
                st.sampled_from(["UINT8", "UINT8", "BYTES", "FP32"]),
                st.sampled_from([[1, 8, 8, 3], [1], [1, 1], [2], [], [-1], [2**62]]),
                st.lists(st.integers(0, 2**32 - 1), max_size=3),
            ),
            max_size=2,
        ),
        "outputs": st.lists(st.sampled_from(["scores", "nope"]), max_size=2),
        "version": st.sampled_from(["", "", "1", "2", "x"]),
    }
)


@SEARCH
@given(MESSAGES)
def test_no_message_is_answered_but_as_the_protocol_says(served: Served, message: dict[str, Any]):
    request = triton.service_pb2.ModelInferRequest(
        model_name="colours", model_version=message["version"], raw_input_contents=message["raw"]
    )
    for name, datatype, shape, values in message["inputs"]:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        tensor.contents.uint_contents.extend(values)
    for name in message["outputs"]:
        request.outputs.add(name=name)
    call = served.rpc._client_stub.ModelInfer.future(request)
    if (status := call.code().name) == "OK":
        assert [output.name for output in call.result().outputs] == ["scores"]
    else:
        assert status in ("INVALID_ARGUMENT", "NOT_FOUND")
        assert call.details()
