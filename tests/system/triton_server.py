"""A real Triton on this machine without a container: its binary, from the nvidia-pytriton wheel.

The server is 2.51 of October 2024 with the Python backend only: for tests on the loopback, never
to be shipped. It is fetched once by pip and assembled in ``.cache/triton``, which git ignores.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

CACHE = Path(__file__).parents[2] / ".cache" / "triton"
WHEEL = "nvidia-pytriton==0.7.0"
# With NumPy 2 the Python backend of this server answers OK with a tensor of zero bytes.
NUMPY = "numpy==1.26.4"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
START_TIMEOUT_S = 60.0


class ServerExitedError(Exception):
    """The server ended by itself; the message is the end of its log."""


@dataclass(frozen=True)
class Installation:
    """Where the parts of the server lie."""

    wheel: Path
    environment: Path

    @property
    def root(self) -> Path:
        return self.wheel / "pytriton" / "tritonserver"

    def variables(self) -> dict[str, str]:
        """Return the environment that the server needs."""
        # The backend runs the first python3 on PATH, and links the interpreter's library.
        libraries = f"{self.wheel / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
        path = f"{self.environment / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}


def install(runtime: str) -> Installation:
    """Return the server, fetched and assembled at the first call.

    Args:
        runtime: The package that runs networks in its Python backend.
    """
    _require_platform()
    folder = CACHE / f"{WHEEL.replace('==', '-')}-{PYTHON}"
    if not folder.exists():
        half_done = folder.with_suffix(".tmp")
        shutil.rmtree(half_done, ignore_errors=True)
        _assemble(half_done)
        half_done.rename(folder)
    # The environment names its own path in its programs, so it is made in place.
    # Releases of a runtime differ in the last bits, so it gets the one that we compare to.
    packages = (NUMPY, f"{runtime}=={metadata.version(runtime)}")
    environment = folder / "-".join(["environment", *packages])
    if not (environment / "complete").exists():
        venv.create(environment, clear=True, with_pip=True)
        _pip(environment / "bin" / "python", "install", *packages)
        (environment / "complete").touch()
    return Installation(folder / "wheel", environment)


@contextlib.contextmanager
def running(
    installation: Installation, repository: Path, log: Path, *options: str
) -> Iterator[str]:
    """Serve a repository; gives the gRPC address once the server answers.

    Raises:
        ServerExitedError: The server ended before it was ready.
    """
    with controlled(installation, repository, log, *options) as (address, _server):
        yield address


@contextlib.contextmanager
def controlled(
    installation: Installation, repository: Path, log: Path, *options: str, port: int = 0
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a repository; gives the gRPC address and the process, for tests that harm it.

    Raises:
        ServerExitedError: The server ended before it was ready.
    """
    http, grpc, metrics = _free_ports(3)
    grpc = port or grpc
    command = [
        str(installation.root / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={installation.root / 'backends'}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        # Sent as soon as the test is over, so nobody waits for a stub that is already gone.
        "--exit-timeout-secs=5",
        *options,
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=installation.variables()
        )
        try:
            _wait_until_ready(server, f"127.0.0.1:{grpc}", log)
            yield f"127.0.0.1:{grpc}", server
        finally:
            # A stopped process does not hear that it should end.
            server.send_signal(signal.SIGCONT)
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _require_platform() -> None:
    library = sysconfig.get_config_var("INSTSONAME") or ""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the server's wheel is for Linux on x86_64")
    if not (3, 9) <= sys.version_info[:2] <= (3, 12):
        pytest.skip(f"NumPy 1.26, which this server needs, has no wheel for Python {PYTHON}")
    if not (Path(sysconfig.get_config_var("LIBDIR")) / library).is_file() or ".so" not in library:
        pytest.skip("the server needs a Python built with a shared library")


def _assemble(folder: Path) -> None:
    folder.mkdir(parents=True)
    _pip(Path(sys.executable), "download", "--no-deps", "--dest", str(folder), WHEEL)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder / "wheel")
    archive.unlink()
    root = folder / "wheel" / "pytriton" / "tritonserver"
    stub = root / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(root / "python_backend_stubs" / PYTHON / stub.name, stub)
    for program in (stub, root / "bin" / "tritonserver"):
        program.chmod(0o755)


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _complaints(log: Path) -> str:
    """Return the errors of a log: lines begin with the first letter of their level."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if line.startswith(("E", "error")))


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with InferenceServerClient(address) as client:
        while time.monotonic() < deadline_s:
            if server.poll() is not None:
                raise ServerExitedError(_complaints(log))
            with contextlib.suppress(InferenceServerException):
                if client.is_server_live():
                    return
            time.sleep(0.1)
    raise TimeoutError(f"Triton did not answer in {START_TIMEOUT_S} s; its log is {log}")
