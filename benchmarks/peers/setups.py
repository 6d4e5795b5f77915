"""How each server is installed, started and asked, as its documentation advises.

All of them decode by the same function (BentoML opens the picture itself first) and name five
classes. Peers run one worker a processor with one thread of ONNX Runtime each, and the gateway as
many networks at once with one thread each: with fewer and more threads each of them was slower
under load, and quicker for one picture alone. Batches are what was best for each at 8 and 32
connections: LitServe's guide advises them, BentoML adapts them, MLServer leaves them off.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import load, processes

MODEL = "deit-tiny"
REPOSITORY = processes.ROOT / "model_repository"
_CORES = len(os.sched_getaffinity(0))
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Start:
    """How a server is started.

    Args:
        command: The program and its arguments.
        ready: The path that answers 200 when it can be asked.
        variables: Of its environment.
    """

    command: Sequence[str]
    ready: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """One server.

    Args:
        packages: What is installed for it, pinned; nothing for what is here already.
        start: Given its environment's folder, a folder for its files and a port.
        request: Makes the bytes of a request of a JPEG.
        described: How it is set up, in a few words.
    """

    packages: tuple[str, ...]
    start: Callable[[Path, Path, int], Start]
    request: Callable[[bytes], bytes]
    described: str


def prepare(cache: Path, runtime: str) -> None:
    """Install what is not there yet, each server in an environment of its own.

    Args:
        cache: The folder of the environments.
        runtime: The version of ONNX Runtime, the same in all of them.
    """
    for name, setup in SETUPS.items():
        if not setup.packages:
            continue
        wanted = [*setup.packages, f"onnxruntime=={runtime}", *_SHARED]
        folder = cache / name
        listed = folder / "packages"
        if listed.exists() and listed.read_text(encoding="utf-8").split() == wanted:
            continue
        print(f"installing {' '.join(wanted)} into {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(pip, check=True, timeout=_TIMEOUT_S)  # noqa: S603 - pinned above
        listed.write_text("\n".join(wanted), encoding="utf-8")


def _ours(runtime: str) -> Callable[[Path, Path, int], Start]:
    def start(_environment: Path, _folder: Path, port: int) -> Start:
        command, variables = processes.gateway(
            port,
            executor=runtime,
            cpu_concurrency=_CORES,
            repository=REPOSITORY,
            default_model=MODEL,
        )
        return Start(command, "/readyz", variables)

    return start


def _litserve(environment: Path, _folder: Path, port: int) -> Start:
    command = [
        str(environment / "bin" / "python"),
        "-m",
        "benchmarks.peers.litserve_app",
        str(port),
    ]
    return Start(command, "/health", _peer(environment, batch=8))


def _bentoml(environment: Path, folder: Path, port: int) -> Start:
    program = str(environment / "bin" / "bentoml")
    target = "benchmarks.peers.bentoml_app:Photos"
    command = [program, "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    variables = {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"}
    return Start(command, "/readyz", {**_peer(environment, batch=8), **variables})


def _mlserver(environment: Path, folder: Path, port: int) -> Start:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": processes.free_port(),
        "metrics_port": processes.free_port(),
        "parallel_workers": _CORES,
        "debug": False,
    }
    model = {"name": "photos", "implementation": "benchmarks.peers.mlserver_app.Photos"}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    command = [str(environment / "bin" / "mlserver"), "start", str(folder)]
    return Start(command, "/v2/models/photos/ready", _peer(environment, batch=1))


def _peer(environment: Path, batch: int) -> dict[str, str]:
    (model,) = REPOSITORY.glob(f"{MODEL}/*/model.onnx")
    return {
        "PEER_MODEL": str(model),
        "PEER_WORKERS": str(_CORES),
        "PEER_THREADS": "1",
        "PEER_BATCH": str(batch),
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
    }


def _raw(picture: bytes) -> bytes:
    return load.post("/v1/classify", picture, "image/jpeg")


def _json_image(picture: bytes) -> bytes:
    body = json.dumps({"image_data": base64.b64encode(picture).decode()})
    return load.post("/predict", body.encode(), "application/json")


def _form(picture: bytes) -> bytes:
    return load.post("/classify", *load.form(picture, "images"))


def _inference(picture: bytes) -> bytes:
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(picture).decode()],
    }
    body = json.dumps({"inputs": [tensor]})
    return load.post("/v2/models/photos/infer", body.encode(), "application/json")


# What contract/ needs.
_SHARED = ("numpy", "pillow")
OURS = "gateway"
OURS_SAME = "gateway, ONNX Runtime"
SETUPS: Mapping[str, Setup] = {
    OURS: Setup((), _ours("openvino"), _raw, f"raw body; {_CORES} runs of OpenVINO at once"),
    OURS_SAME: Setup(
        (), _ours("onnxruntime"), _raw, f"raw body; {_CORES} runs of ONNX Runtime at once"
    ),
    "litserve": Setup(
        ("litserve==0.2.19",),
        _litserve,
        _json_image,
        f"base64 in JSON; {_CORES} workers, batches of up to 8",
    ),
    "bentoml": Setup(
        ("bentoml==1.4.40",), _bentoml, _form, f"form; {_CORES} workers, adaptive batches up to 8"
    ),
    # MLServer 1.7.1 does not start with newer ones.
    "mlserver": Setup(
        ("mlserver==1.7.1", "uvloop==0.21.0"),
        _mlserver,
        _inference,
        f"base64 in the Open Inference Protocol; {_CORES} workers",
    ),
}
