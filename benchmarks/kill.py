"""Hurt a real Triton, and then the gateway before it, under load: what becomes of each request.

    python -m benchmarks.kill --json kill.json

One gateway stands before a Triton (2.51 of October 2024 from its wheel, with a network that
computes nothing) and is never started again. Requests come at --rate, whether or not anything is
answered. Some seconds into each scenario something is done to Triton, and some seconds later it is
undone:

- killed: SIGKILL, then started again at the same address
- stopped: SIGSTOP, then SIGCONT: connections stay, nobody answers
- worker killed: SIGKILL to the process that runs the network, then unloaded and loaded again
- slow: its worker is let run for a twentieth of each second, then always
- restarted: SIGTERM, then started again

At last the gateway gets SIGTERM while requests come over REST and over gRPC. It must answer
every request that it took, and exit with 0; connections refused from then on are no loss.

A request is lost when it was sent and its connection ended without an answer: none may be. `first
error` is the time from the harm until the first request was told so; `ok again` and `all ok` are
the times from the mend until the first request that began after it was answered, and until the
last that was not; `longest` is how long any request took. Ends with 1 where a request was lost or
Triton was not found again. About 100 s with the defaults; the first run fetches the wheel. Linux on
x86_64 with the development packages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import uvloop
from tritonclient.grpc import InferenceServerClient

from benchmarks import empty, load, pictures, processes
from benchmarks.load import LOST, REFUSED, Client, HttpClient, Reply
from benchmarks.processes import Server
from benchmarks.vision import VisionClient
from tests.system import triton_server

_RUNTIME: Final = "onnxruntime"
_EXPLICIT: Final = ("--model-control-mode=explicit", "--load-model=*")
_PACKAGES: Final = ("tritonclient", "grpcio", "fastapi", "uvicorn")
# Of each second that the slow worker may run.
_RUNS_S: Final = 0.05
_EXIT_S: Final = 60.0
COLUMNS: Final = (
    "sent", "ok", "answered otherwise", "lost", "first error", "ok again", "all ok", "longest",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What became of the requests of one scenario.

    Args:
        outcomes: How many requests ended how.
        first_error_s: From the harm to the first answer that says so; None where none did.
        ok_again_s: From the mend to the first answer to a request that began after it.
        all_ok_s: From the mend to the end of the last request that failed.
        longest_s: Until any request was answered.
    """

    outcomes: dict[str, int]
    first_error_s: float | None
    ok_again_s: float | None
    all_ok_s: float | None
    longest_s: float


@dataclass(frozen=True)
class Stop:
    """What became of the requests while the gateway stopped.

    Args:
        outcomes: How many requests ended how, by transport.
        exit_code: Of the gateway.
        seconds: From SIGTERM until it had ended.
    """

    outcomes: dict[str, dict[str, int]]
    exit_code: int
    seconds: float


class Triton:
    """A Triton that is hurt and started again at one address.

    Args:
        folder: For its logs.
        repository: What it serves.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self._folder = folder
        self._repository = repository
        self._installation = triton_server.install(_RUNTIME)
        self._held = contextlib.ExitStack()
        self._starts = 0
        self.address = f"127.0.0.1:{processes.free_port()}"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it, and return when it is ready."""
        self._starts += 1
        port = int(self.address.rpartition(":")[2])
        log = self._folder / f"triton-{self._starts}.log"
        _, self.process = self._held.enter_context(
            triton_server.controlled(
                self._installation, self._repository, log, *_EXPLICIT, port=port
            )
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait until the server has ended."""
        self.send(number)
        self.process.wait()

    def worker(self) -> int:
        """Return the process that runs the network."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"stub" in words[0] and any(b"/empty/" in word for word in words):
                    return int(folder.name)
        raise RuntimeError("Triton has no process that runs the network")

    def load_again(self) -> None:
        """Unload the network and load it, which alone replaces a dead worker."""
        with InferenceServerClient(self.address) as client:
            client.unload_model(empty.NAME)
            while client.is_model_ready(empty.NAME):
                time.sleep(0.05)
            client.load_model(empty.NAME)

    def close(self) -> None:
        """End it."""
        self._held.close()


Do = Callable[[], Awaitable[None]]


def scenarios(triton: Triton) -> dict[str, tuple[Do, Do]]:
    """Return what is done to Triton, and what undoes it."""
    slow: list[asyncio.Task[None]] = []

    async def begin_slow() -> None:
        slow.append(asyncio.create_task(_slow(triton.worker())))

    async def end_slow() -> None:
        slow.pop().cancel()

    async def kill_worker() -> None:
        os.kill(triton.worker(), signal.SIGKILL)

    def of(do: Callable[..., None], *arguments: object) -> Do:
        async def doing() -> None:
            await asyncio.to_thread(do, *arguments)

        return doing

    return {
        "killed": (of(triton.end, signal.SIGKILL), of(triton.start)),
        "stopped": (of(triton.send, signal.SIGSTOP), of(triton.send, signal.SIGCONT)),
        "worker killed": (kill_worker, of(triton.load_again)),
        "slow": (begin_slow, end_slow),
        "restarted": (of(triton.end, signal.SIGTERM), of(triton.start)),
    }


async def _slow(worker: int) -> None:
    try:
        while True:
            os.kill(worker, signal.SIGSTOP)
            await asyncio.sleep(1 - _RUNS_S)
            os.kill(worker, signal.SIGCONT)
            await asyncio.sleep(_RUNS_S)
    finally:
        os.kill(worker, signal.SIGCONT)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where something was lost or stayed broken."""
    arguments = _parser().parse_args(argv)
    photos = pictures.photos(arguments.photos, arguments.pictures)
    facts = {**processes.machine(), **processes.versions(*_PACKAGES)}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(f"{pictures.described(photos)}; {arguments.rate:g} requests a second")
    found, stop = uvloop.run(_measure(arguments, photos))
    print("\n".join(["", *table(found), "", *told(stop)]))
    wrong = faults(found, stop)
    print("\n" + ("\n".join(wrong) if wrong else "Nothing was lost, and Triton was found again."))
    if arguments.json:
        content = {
            "facts": facts,
            "found": {name: asdict(one) for name, one in found.items()},
            "stop": asdict(stop),
        }
        arguments.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return int(bool(wrong))


def summary(replies: Sequence[Reply], harmed_s: float, mended_s: float) -> Found:
    """Sum up one scenario.

    Args:
        replies: What came of every request.
        harmed_s: When the harm was done, on the clock of time.perf_counter.
        mended_s: When it was undone.
    """
    failed_s = [reply.ended_s for reply in replies if not reply.ok]
    ok_s = [reply.ended_s for reply in replies if reply.ok and reply.began_s >= mended_s]
    told_s = [one for one in failed_s if one >= harmed_s]
    return Found(
        outcomes=dict(Counter(reply.outcome for reply in replies).most_common()),
        first_error_s=min(told_s) - harmed_s if told_s else None,
        ok_again_s=min(ok_s) - mended_s if ok_s else None,
        all_ok_s=max(0.0, max(failed_s) - mended_s) if failed_s else 0.0,
        longest_s=max(reply.seconds for reply in replies),
    )


def table(found: Mapping[str, Found]) -> list[str]:
    """Return a row for each scenario."""
    rows = [f"| Triton | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, one in found.items():
        times = (one.first_error_s, one.ok_again_s, one.all_ok_s, one.longest_s)
        shown = " | ".join("" if value is None else f"{value:.2f} s" for value in times)
        rows.append(f"| {name} | {_counted(one.outcomes)} | {shown} |")
    return rows


def told(stop: Stop) -> list[str]:
    """Return the table of the gateway's own stop."""
    rows = ["| gateway stopped | sent | ok | answered otherwise | lost |", "|---|---|---|---|---|"]
    rows += [f"| {name} | {_counted(outcomes)} |" for name, outcomes in stop.outcomes.items()]
    return [*rows, "", f"It ended {stop.seconds:.1f} s after SIGTERM with {stop.exit_code}."]


def faults(found: Mapping[str, Found], stop: Stop) -> list[str]:
    """Say what should not have been."""
    said = []
    for name, one in found.items():
        if lost := one.outcomes.get(LOST, 0) + one.outcomes.get(REFUSED, 0):
            said.append(f"{name}: {lost} requests had no answer")
        if one.outcomes.get("internal"):
            said.append(
                f"{name}: {one.outcomes['internal']} answers say that the service is broken"
            )
        if one.ok_again_s is None:
            said.append(f"{name}: nothing was answered after the mend")
    for name, outcomes in stop.outcomes.items():
        if lost := outcomes.get(LOST, 0):
            said.append(f"gateway stopped: {lost} requests over {name} had no answer")
    if stop.exit_code:
        said.append(f"the gateway ended with {stop.exit_code}")
    return said


def _counted(outcomes: Mapping[str, int]) -> str:
    others = {key: n for key, n in outcomes.items() if key not in ("ok", LOST)}
    said = ", ".join(f"{count} {name}" for name, count in others.items()) or "0"
    total = sum(outcomes.values())
    return f"{total} | {outcomes.get('ok', 0)} | {said} | {outcomes.get(LOST, 0)}"


async def _measure(
    arguments: argparse.Namespace, photos: list[bytes]
) -> tuple[dict[str, Found], Stop]:
    with _running(arguments) as (triton, gateway, rpc_port):
        rest = HttpClient(
            gateway.port, [load.post("/v1/classify", one, "image/jpeg") for one in photos]
        )
        rpc = VisionClient(rpc_port, photos)
        await load.closed(rest, 4, 1.0)
        found = {}
        for name, (harm, mend) in scenarios(triton).items():
            if name in arguments.scenarios:
                found[name] = await _scenario(rest, harm, mend, arguments)
                print(f"{name}: done", file=sys.stderr)
        stop = await _stop({"REST": rest, "gRPC": rpc}, gateway, arguments)
        await rest.close()
        await rpc.close()
    return found, stop


async def _scenario(client: Client, harm: Do, mend: Do, arguments: argparse.Namespace) -> Found:
    whole_s = arguments.before + arguments.harmed + arguments.after
    asking = asyncio.create_task(load.open_load(client, arguments.rate, whole_s))
    await asyncio.sleep(arguments.before)
    harmed_s = time.perf_counter()
    await harm()
    await asyncio.sleep(arguments.harmed)
    await mend()
    mended_s = time.perf_counter()
    # A start takes seconds, and there must be time to see what comes after.
    replies = await asking
    more = mended_s + arguments.after - time.perf_counter()
    if more > 0:
        replies += await load.open_load(client, arguments.rate, more)
    return summary(replies, harmed_s, mended_s)


async def _stop(
    clients: Mapping[str, Client], gateway: Server, arguments: argparse.Namespace
) -> Stop:
    rate = arguments.rate / len(clients)
    whole_s = arguments.before + arguments.harmed + arguments.after
    asking = [
        asyncio.create_task(load.open_load(client, rate, whole_s, seed))
        for seed, client in enumerate(clients.values())
    ]
    await asyncio.sleep(arguments.before)
    began_s = time.perf_counter()
    gateway.process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(gateway.process.wait, _EXIT_S)
    seconds = time.perf_counter() - began_s
    found = await asyncio.gather(*asking)
    outcomes = {
        name: dict(Counter(reply.outcome for reply in replies).most_common())
        for name, replies in zip(clients, found, strict=True)
    }
    return Stop(outcomes, code, seconds)


@contextlib.contextmanager
def _running(arguments: argparse.Namespace) -> Iterator[tuple[Triton, Server, int]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty.write(folder / "models", backend="python")
        triton = Triton(folder, folder / "models")
        port, rpc_port = processes.free_port(), processes.free_port()
        command, variables = processes.gateway(
            port,
            grpc_port=rpc_port,
            executor="triton",
            triton_url=triton.address,
            triton_check_s=1,
            default_model=empty.NAME,
            deadline_s=arguments.deadline,
        )
        log = folder / "gateway.log"
        try:
            triton.start()
            with processes.serving(
                command, port=port, ready="/readyz", log=log, variables=variables
            ) as gateway:
                yield triton, gateway, rpc_port
        finally:
            triton.close()
            if arguments.log:
                arguments.log.write_bytes(log.read_bytes())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("killed", "stopped", "worker killed", "slow", "restarted")
    parser.add_argument("--scenarios", nargs="+", choices=names, default=list(names))
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument("--before", type=float, default=3.0, help="seconds before the harm")
    parser.add_argument("--harmed", type=float, default=5.0, help="seconds until it is undone")
    parser.add_argument("--after", type=float, default=8.0, help="seconds after that")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files to send")
    parser.add_argument("--pictures", type=int, default=16, help="how many of them")
    parser.add_argument("--json", type=Path, help="write what came there")
    parser.add_argument("--log", type=Path, help="keep the gateway's log there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
