"""Ask the service by the Open Inference Protocol, as its specification writes it."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from tritonclient import grpc as triton

from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests.conftest import Serve
from tests.service.fakes import FakeExecutor

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
MAX_BODY_BYTES: Final = 200_000
MAX_TENSOR_BYTES: Final = 1_500_000
NOISE: Final = np.random.default_rng(5).integers(0, 256, (3, 8, 8, 3), np.uint8)


@dataclass(frozen=True)
class Served:
    """One service, and a client for each transport."""

    rest: httpx.Client
    rpc: triton.InferenceServerClient
    grpc_url: str
    app: FastAPI


@contextlib.contextmanager
def serving(serve: Serve, settings: Settings, executor: Any) -> Iterator[Served]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    app = create_app(settings, executor, listener)
    with serve(app) as rest:
        url = f"127.0.0.1:{app.state.rpc.port}"
        with triton.InferenceServerClient(url) as rpc:
            yield Served(rest, rpc, url, app)


@contextlib.contextmanager
def serving_scenes(repository: Path, serve: Serve) -> Iterator[Served]:
    """Serve real networks, with small limits."""
    settings = Settings(
        repository=repository,
        executor="onnxruntime",
        max_body_bytes=MAX_BODY_BYTES,
        max_tensor_bytes=MAX_TENSOR_BYTES,
        # A busy test machine shall not turn an answer into a timeout.
        deadline_s=30,
    )
    with serving(serve, settings, choice.load(settings)) as served:
        yield served


@contextlib.contextmanager
def serving_fake(serve: Serve) -> Iterator[tuple[Served, FakeExecutor]]:
    """Serve what answers when a test wants, two requests at once, beside a broken model."""
    executor = FakeExecutor()
    executor.unavailable = {"broken": "it has no card"}
    with serving(serve, Settings(queue_limit=0, decode_threads=1), executor) as served:
        yield served, executor


def elements(*pictures: bytes) -> bytes:
    """Return the bytes of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(picture)) + picture for picture in pictures)


def pixels(images: np.ndarray, **more: Any) -> dict[str, Any]:
    """Return an input of pixels whose bytes follow the JSON."""
    return {
        "name": "image",
        "shape": [*images.shape],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": images.nbytes},
        **more,
    }


def files(*pictures: bytes, **more: Any) -> dict[str, Any]:
    """Return an input of encoded pictures whose bytes follow the JSON."""
    return {
        "name": "image",
        "shape": [len(pictures)],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(elements(*pictures))},
        **more,
    }


def post(
    client: httpx.Client,
    request: object,
    binary: bytes = b"",
    path: str = "colours/infer",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Send a request, with what follows its JSON."""
    header = json.dumps(request).encode()
    lengths = {HEADER_LENGTH: str(len(header))} if binary else {}
    return client.post(
        f"/v2/models/{path}", content=header + binary, headers={**lengths, **(headers or {})}
    )


def outputs(answer: httpx.Response) -> dict[str, np.ndarray]:
    """Return the tensors of an answer, from its JSON and from what follows that."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
    said, rest = json.loads(answer.content[:length]), answer.content[length:]
    tensors = {}
    for output in said["outputs"]:
        dtype = {"FP32": np.float32, "INT32": np.int32, "BOOL": np.bool_, "UINT8": np.uint8}
        kind = dtype[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], kind)
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], kind), rest[size:]
        tensors[output["name"]] = values.reshape(output["shape"])
    assert rest == b""
    return tensors


def refused(answer: httpx.Response, status: int = 400) -> str:
    """Check that an answer is an error as the protocol has it, and return what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"]
    return str(body["error"])


def triton_input(values: np.ndarray | Sequence[bytes]) -> Any:
    """Return an input as Triton's client sends it."""
    if not isinstance(values, np.ndarray):
        values = np.array([*values], np.object_)
    kind = "BYTES" if values.dtype == np.object_ else triton.np_to_triton_dtype(values.dtype)
    sent = triton.InferInput("image", [*values.shape], kind)
    sent.set_data_from_numpy(values)
    return sent


def both(
    served: Served,
    values: np.ndarray | Sequence[bytes],
    model: str = "colours",
    wanted: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Ask over both transports, and return what both gave."""
    sent = pixels(values) if isinstance(values, np.ndarray) else files(*values)
    binary = values.tobytes() if isinstance(values, np.ndarray) else elements(*values)
    request: dict[str, Any] = {"inputs": [sent], "parameters": {"binary_data_output": True}}
    request["outputs"] = [{"name": name} for name in wanted]
    rest = outputs(post(served.rest, request, binary, f"{model}/infer"))
    asked = [triton.InferRequestedOutput(name) for name in wanted]
    answer = served.rpc.infer(model, [triton_input(values)], outputs=asked or None)
    rpc = {entry.name: answer.as_numpy(entry.name) for entry in answer.get_response().outputs}
    assert list(rest) == list(rpc)
    for name, array in rest.items():
        assert array.dtype == rpc[name].dtype
        np.testing.assert_array_equal(array, rpc[name])
    return rest


def failed(served: Served, *inputs: Any, model: str = "colours", **more: Any) -> tuple[str, str]:
    """Return status and sentence of a failed call over gRPC."""
    with pytest.raises(triton.InferenceServerException) as caught:
        served.rpc.infer(model, [*inputs], **more)
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())
