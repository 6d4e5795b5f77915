"""A folder of odd, malformed and hostile files, each sent to a real gateway over REST and gRPC.

GPUSQ_HOSTILE names the folder; any files will do. With a ``manifest.csv`` beside them, columns
``file`` and ``pillow_result``, what Pillow decodes is expected to be answered or refused for its
kind or size, never as damaged.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import pytest

from benchmarks import processes
from benchmarks.processes import Server
from contract.preprocess import decode
from service.rpc.gpusq.v1 import vision_pb2
from tests import bundles

FOLDER: Final = os.environ.get("GPUSQ_HOSTILE", "")
SLOWEST_S: Final = 5.0
MOST_MIB: Final = 500
TYPE: Final = {"Content-Type": "application/octet-stream"}
REFUSALS: Final = {"bad_image", "unsupported_media", "too_many_pixels", "too_many_bytes"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="GPUSQ_HOSTILE names no folder of hostile files"),
]


@dataclass(frozen=True)
class Gateway:
    server: Server
    rest: httpx.Client
    rpc: Any

    def peak_mib(self) -> float:
        """Return the most memory that was ever resident."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def over_rest(self, data: bytes) -> tuple[str, list[float]]:
        answer = self.rest.post("/v1/classify", content=data, headers=TYPE)
        body = answer.json()
        assert answer.status_code < 500, body
        return body.get("code", "ok"), [one["score"] for one in body.get("predictions", [])]

    def over_grpc(self, data: bytes) -> tuple[str, list[float]]:
        try:
            answer = self.rpc(vision_pb2.ClassifyRequest(image=data), timeout=30)
        except grpc.RpcError as error:
            said = dict(error.trailing_metadata())
            return said.get("x-error-code", f"{error.code()}: {error.details()}"), []
        return "ok", [one.score for one in answer.predictions]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("hostile")
    bundles.write_model(folder / "models", "colours")
    port, rpc_port = processes.free_port(), processes.free_port()
    command, variables = processes.gateway(
        port,
        grpc_port=rpc_port,
        executor="onnxruntime",
        repository=folder / "models",
        default_model="colours",
        # Shall say what is wrong with a file, not that it took long.
        deadline_s=30,
    )
    with (
        processes.serving(
            command, port=port, ready="/readyz", log=folder / "log", variables=variables
        ) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as rest,
        grpc.insecure_channel(
            f"127.0.0.1:{rpc_port}", options=(("grpc.max_send_message_length", -1),)
        ) as channel,
    ):
        classify = channel.unary_unary(
            "/gpusq.v1.Vision/Classify",
            request_serializer=vision_pb2.ClassifyRequest.SerializeToString,
            response_deserializer=vision_pb2.ClassifyResponse.FromString,
        )
        yield Gateway(server, rest, classify)


def files() -> list[Path]:
    return sorted(path for path in Path(FOLDER).rglob("*") if path.is_file())


def decodable() -> set[str]:
    """Return what Pillow makes a picture of, by the manifest."""
    manifest = Path(FOLDER) / "manifest.csv"
    if not manifest.exists():
        return set()
    with manifest.open(encoding="utf-8", newline="") as lines:
        return {row["file"] for row in csv.DictReader(lines) if row["pillow_result"] == "ok"}


def test_no_file_harms_the_gateway_and_both_transports_say_the_same(gateway: Gateway):
    wrong: list[str] = []
    outcomes: dict[str, int] = {}
    fine = decodable()
    for path in files():
        name, data = str(path.relative_to(FOLDER)), path.read_bytes()
        said = []
        for ask in (gateway.over_rest, gateway.over_grpc):
            began_s = time.monotonic()
            said.append(ask(data))
            if (took_s := time.monotonic() - began_s) > SLOWEST_S:
                wrong.append(f"{name}: {ask.__name__} took {took_s:.1f} s")
        if said[0] != said[1]:
            wrong.append(f"{name}: {said}")
        code = said[0][0]
        outcomes[code] = outcomes.get(code, 0) + 1
        if code == "bad_image" and name in fine:
            wrong.append(f"{name}: Pillow reads it, the gateway calls it damaged")

    assert outcomes.keys() <= REFUSALS | {"ok"}, outcomes
    assert outcomes["ok"]
    assert wrong == []
    assert gateway.peak_mib() < MOST_MIB
    assert gateway.rest.get("/readyz").status_code == 200


@pytest.mark.parametrize("family", ["Landscape", "Portrait"])
def test_a_photo_stored_in_every_orientation_comes_out_the_same(gateway: Gateway, family: str):
    paths = sorted(Path(FOLDER).glob(f"exif/{family}_?.jpg"))
    if len(paths) < 2:
        pytest.skip(f"there are no exif/{family}_*.jpg of one photo in all orientations")
    pictures = [np.asarray(decode(path.read_bytes()), int) for path in paths]
    for picture in pictures[1:]:
        # Each was compressed by itself; turned otherwise they would differ by 30 or more.
        assert abs(picture - pictures[0]).mean() < 8
    for path in paths:
        answer = gateway.rest.post("/v1/classify", content=path.read_bytes(), headers=TYPE).json()
        height, width, _ = pictures[0].shape
        assert answer["image"] == {"width": width, "height": height}
