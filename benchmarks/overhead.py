"""What the gateway itself costs: CPU time of a request around a network that computes nothing.

    python -m benchmarks.overhead --rounds 7 --json overhead.json
    python -m benchmarks.overhead --profile

Against plain FastAPI (benchmarks/plain.py), which reads, decodes and scales the same pictures by
the same function in as many threads, and answers JSON. Each contender gets the same requests in
turns, from one client with so many connections; the ratio is that of the same round, and what is
shown are medians over the rounds. CPU time is that of the server's processes by
/proc, so it does not depend on what else the machine does, nor on the client. `loop` is the part of
the thread that the event loop runs in; the rest is decoding and whatever else threads do. ONNX
Runtime runs the empty network, because it costs least by itself.

--profile instead prints where the CPU time of the event loop's thread goes in the gateway, by
cProfile, which makes small calls look dearer than they are.

Goal: at most 1.15 times the CPU time of plain FastAPI for raw bodies. About 2 minutes with the
defaults, on Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pstats
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import empty, load, pictures, processes
from benchmarks.load import Client, HttpClient
from benchmarks.processes import Server
from benchmarks.vision import VisionClient

PLAIN: Final = "plain FastAPI, raw"
GATEWAY: Final = "gateway, raw"
GOAL: Final = 1.15
COLUMNS: Final = ("CPU ms", "loop ms", "ratio", "p50 ms", "failed")
_PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pillow", "numpy")
_SHOWN = 30


@dataclass(frozen=True)
class Turn:
    """What one contender did in one round, a request on average."""

    cpu_ms: float
    loop_ms: float
    p50_ms: float
    failed: int


@dataclass(frozen=True)
class Contender:
    """Who is asked how.

    Args:
        server: Whose CPU time counts.
        client: Asks it.
    """

    server: Server
    client: Client


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where the goal is missed."""
    arguments = _parser().parse_args(argv)
    photos = pictures.photos(arguments.photos, arguments.pictures)
    if arguments.profile:
        uvloop.run(_profile(arguments, photos))
        return 0
    rounds = uvloop.run(_measure(arguments, photos))
    rows = summary(rounds)
    _print(rows, photos, arguments)
    if arguments.json:
        found = {
            "machine": processes.machine(),
            "versions": processes.versions(*_PACKAGES),
            "pictures": pictures.described(photos),
            "concurrency": arguments.concurrency,
            "requests": arguments.requests,
            "rounds": {name: [asdict(turn) for turn in turns] for name, turns in rounds.items()},
            "summary": rows,
        }
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    failed = any(row[-1] for row in rows.values())
    return int(failed or rows[GATEWAY][2] > GOAL)


def summary(rounds: Mapping[str, list[Turn]]) -> dict[str, tuple[float, ...]]:
    """Return the medians over the rounds, in the order of :data:`COLUMNS`."""
    plain = [turn.cpu_ms for turn in rounds[PLAIN]]
    return {
        name: (
            statistics.median(turn.cpu_ms for turn in turns),
            statistics.median(turn.loop_ms for turn in turns),
            statistics.median(
                turn.cpu_ms / other for turn, other in zip(turns, plain, strict=True)
            ),
            statistics.median(turn.p50_ms for turn in turns),
            sum(turn.failed for turn in turns),
        )
        for name, turns in rounds.items()
    }


async def measured(contender: Contender, concurrency: int, requests: int) -> Turn:
    """Give one contender its requests; return what each cost."""
    before = contender.server.usage()
    replies = await load.counted(contender.client, concurrency, requests)
    after = contender.server.usage()
    return Turn(
        cpu_ms=1000 * (after.cpu_s - before.cpu_s) / len(replies),
        loop_ms=1000 * (after.main_cpu_s - before.main_cpu_s) / len(replies),
        p50_ms=1000 * load.quantile([reply.seconds for reply in replies], 0.5),
        failed=sum(not reply.ok for reply in replies),
    )


async def _measure(arguments: argparse.Namespace, photos: list[bytes]) -> dict[str, list[Turn]]:
    with _servers(arguments) as (plain, gateway, rpc_port):
        contenders = {
            PLAIN: Contender(plain, _http(plain, "/raw", photos)),
            GATEWAY: Contender(gateway, _http(gateway, "/v1/classify", photos)),
            "plain FastAPI, form": Contender(plain, _http(plain, "/form", photos, form=True)),
            "gateway, form": Contender(gateway, _http(gateway, "/v1/classify", photos, form=True)),
            "gateway, gRPC": Contender(gateway, VisionClient(rpc_port, photos)),
        }
        for contender in contenders.values():
            await measured(contender, arguments.concurrency, arguments.warm_up)
        rounds: dict[str, list[Turn]] = {name: [] for name in contenders}
        for number in range(arguments.rounds):
            for name, contender in contenders.items():
                turn = await measured(contender, arguments.concurrency, arguments.requests)
                rounds[name].append(turn)
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
        for contender in contenders.values():
            await contender.client.close()
    return rounds


async def _profile(arguments: argparse.Namespace, photos: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats"
        with _gateway(arguments, str(stats)) as (server, _):
            client = _http(server, "/v1/classify", photos)
            before = server.usage()
            replies = await load.counted(client, arguments.concurrency, arguments.requests)
            after = server.usage()
            await client.close()
            processes.stop(server)
        loop_ms = 1000 * (after.main_cpu_s - before.main_cpu_s) / len(replies)
        print(f"{len(replies)} requests, {loop_ms:.2f} ms of the event loop's thread each")
        pstats.Stats(str(stats)).strip_dirs().sort_stats("tottime").print_stats(_SHOWN)


@contextlib.contextmanager
def _servers(arguments: argparse.Namespace) -> Iterator[tuple[Server, Server, int]]:
    port = processes.free_port()
    command = [sys.executable, "-m", "benchmarks.plain", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.serving(
            command, port=port, ready="/ready", log=Path(folder) / "plain.log", variables={}
        ) as plain,
        _gateway(arguments) as (gateway, rpc_port),
    ):
        yield plain, gateway, rpc_port


@contextlib.contextmanager
def _gateway(arguments: argparse.Namespace, stats: str = "") -> Iterator[tuple[Server, int]]:
    """Run the gateway with the empty model; note where its time goes, if told where to."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        empty.write(repository)
        port, rpc_port = processes.free_port(), processes.free_port()
        command, variables = processes.gateway(
            port,
            grpc_port=rpc_port,
            executor=arguments.executor,
            repository=repository,
            default_model=empty.NAME,
            deadline_s=30,
        )
        if stats:
            command[command.index("service") : command.index("service") + 1] = [
                "benchmarks.profiled",
                stats,
            ]
        log = Path(folder) / "gateway.log"
        with processes.serving(
            command, port=port, ready="/readyz", log=log, variables=variables
        ) as server:
            yield server, rpc_port


def _http(server: Server, path: str, photos: list[bytes], *, form: bool = False) -> HttpClient:
    bodies = [load.form(one, "image") if form else (one, "image/jpeg") for one in photos]
    return HttpClient(server.port, [load.post(path, *body) for body in bodies])


def _print(
    rows: dict[str, tuple[float, ...]], photos: list[bytes], arguments: argparse.Namespace
) -> None:
    facts = {**processes.machine(), **processes.versions(*_PACKAGES)}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(
        f"{pictures.described(photos)}; {arguments.concurrency} connections, "
        f"{arguments.requests} requests in each of {arguments.rounds} rounds\n"
    )
    print(f"| a request | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, (cpu_ms, loop_ms, ratio, p50_ms, failed) in rows.items():
        print(f"| {name} | {cpu_ms:.2f} | {loop_ms:.2f} | {ratio:.3f} | {p50_ms:.1f} | {failed} |")
    print(f"\nraw: {rows[GATEWAY][2]:.3f} times plain FastAPI, wanted at most {GOAL}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=500, help="of one contender in one round")
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=4, help="connections of the client")
    parser.add_argument("--executor", default="onnxruntime", choices=("onnxruntime", "openvino"))
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files to send")
    parser.add_argument("--pictures", type=int, default=16, help="how many of them")
    parser.add_argument("--json", type=Path, help="write every round there")
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
