"""Servers as processes of their own, and what they cost, by /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Usage:
    """What a server has used up to now.

    Args:
        cpu_s: Of all its processes, since each began.
        main_cpu_s: Of it, that of the first process' first thread, where event loops run.
        rss_bytes: Resident memory of all its processes; what they share counts in each.
        processes: How many there are.
    """

    cpu_s: float
    main_cpu_s: float
    rss_bytes: int
    processes: int


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Args:
        process: Its first process, the head of a session.
        port: Where it listens, on the loopback.
        log: What it printed.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def usage(self) -> Usage:
        """Return what its first process and all that descend from it used so far."""
        head = self.process.pid
        found = list(_family(head))
        first = _ticks(Path(f"/proc/{head}/task/{head}/stat"))
        return Usage(
            cpu_s=sum(one.ticks for one in found) * _TICK_S,
            main_cpu_s=first * _TICK_S,
            rss_bytes=sum(one.pages for one in found) * _PAGE_BYTES,
            processes=len(found),
        )


@contextlib.contextmanager
def serving(
    command: Sequence[str], *, port: int, ready: str, log: Path, variables: Mapping[str, str]
) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        command: What starts it.
        port: Where it will listen.
        ready: The path that answers 200 when it can be asked.
        log: Gets what it prints.
        variables: Of its environment, beside this process' own.

    Raises:
        RuntimeError: It ended, or was not ready in time; the message has the end of its log.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the caller's own command
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
    server = Server(process, port, log)
    try:
        _await_ready(server, ready)
        yield server
    finally:
        stop(server)


def stop(server: Server, patience_s: float = 15.0) -> int:
    """End a server, by force where it must be; return its exit code."""
    family = list(_family(server.process.pid))
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGCONT)
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(patience_s)
    # Also what the first process left behind.
    for one in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
    return server.process.wait()


def gateway(port: int, **settings: object) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts the gateway, and its environment.

    Args:
        port: Where it shall listen.
        settings: Of docs/settings.md, in lower case; no gRPC where they have no `grpc_port`.
    """
    settings.setdefault("grpc", "grpc_port" in settings)
    command = [sys.executable, "-m", "service", "--port", str(port)]
    return command, {f"GPUSQ_{name.upper()}": str(value) for name, value in settings.items()}


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def machine() -> dict[str, str]:
    """Say what was measured on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    return {
        "processor": f"{len(os.sched_getaffinity(0))} x {names[0] if names else 'unknown'}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": " ".join(f"{one:.2f}" for one in os.getloadavg()),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages of this environment."""
    return {name: metadata.version(name) for name in packages}


def _await_ready(server: Server, path: str) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    url = f"http://127.0.0.1:{server.port}{path}"
    while time.monotonic() < until:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.1)
    said = server.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    raise RuntimeError("\n".join([f"{server.process.args!r} was not ready:", *said]))


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    session: int
    ticks: int
    pages: int


def _family(head: int) -> Iterator[_Process]:
    """Find a process, those of its session, and all that descend from one of them.

    Some servers give each worker a session of its own.
    """
    left = [one for path in Path("/proc").glob("[0-9]*") if (one := _process(path))]
    known = {head}
    found: list[_Process] = [one for one in left if head in (one.pid, one.session)]
    while found:
        yield from found
        known.update(one.pid for one in found)
        found = [one for one in left if one.parent in known and one.pid not in known]


def _process(folder: Path) -> _Process | None:
    fields = _fields(folder / "stat")
    if not fields:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return _Process(int(folder.name), int(fields[1]), int(fields[3]), ticks, int(fields[21]))


def _ticks(path: Path) -> int:
    fields = _fields(path)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _fields(path: Path) -> list[str]:
    """Return what stands behind the name of a process, which may hold spaces and brackets."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
