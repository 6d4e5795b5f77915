"""The gateway beside LitServe, BentoML and MLServer: one photo classifier behind all of them.

    python -m benchmarks.beside_servers --prepare
    python -m benchmarks.beside_servers --rounds 3 --seconds 4 --json beside_servers.json

--prepare installs each server in an environment of its own under --cache (about 1 GB). Then every
round starts each server anew, warms it up, and asks it at each concurrency for --seconds; rounds go
through all servers in turns, so that whatever else the machine does hits all of them, and what is
shown are medians over the rounds. One client with one connection for each request under way asks
all of them. Client and servers share the processors: a server that leaves them less leaves itself
less.

Two tables: each server with the runtime it would be used with (the gateway OpenVINO, the others
ONNX Runtime), and all with ONNX Runtime, where only the serving differs. How each is set up, and
why, is in benchmarks/peers/setups.py. CPU time and memory are those of all processes of a server.

Goal: more requests a second and a lower p99 than each peer at 8 and 32. About 6 minutes with the
defaults on two processors, after --prepare. Linux.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import load, pictures, processes
from benchmarks.load import HttpClient
from benchmarks.peers.setups import OURS, OURS_SAME, SETUPS, prepare
from benchmarks.processes import ROOT

COLUMNS: Final = ("req/s", "p50 ms", "p99 ms", "failed", "CPU ms", "RSS MiB")
CONCURRENCIES: Final = (1, 8, 32)
# Where the gateway is to be ahead.
_LOADED: Final = (8, 32)
_WARM_UP_S: Final = 1.5
_PACKAGES: Final = ("onnxruntime", "openvino", "fastapi", "uvicorn", "pillow", "numpy")


@dataclass(frozen=True)
class Turn:
    """What one server did in one round at one concurrency."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms: float
    rss_mib: float


# By server, then by concurrency: a turn for each round.
Turns = Mapping[str, Mapping[int, list[Turn]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return 1 where the gateway is behind somebody."""
    arguments = _parser().parse_args(argv)
    if arguments.prepare:
        prepare(arguments.cache, metadata.version("onnxruntime"))
        return 0
    photos = pictures.photos(arguments.photos, arguments.pictures)
    turns = measured(arguments, photos)
    _print(turns, photos, arguments)
    if arguments.json:
        found = {
            "machine": processes.machine(),
            "versions": processes.versions(*_PACKAGES),
            "servers": {name: [*SETUPS[name].packages, SETUPS[name].described] for name in turns},
            "pictures": pictures.described(photos),
            "seconds": arguments.seconds,
            "turns": {
                name: {count: [asdict(turn) for turn in of] for count, of in by_count.items()}
                for name, by_count in turns.items()
            },
        }
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(any(behind(turns, ours) for ours in (OURS, OURS_SAME) if ours in turns))


def measured(arguments: argparse.Namespace, photos: list[bytes]) -> Turns:
    """Ask every server in every round."""
    turns: dict[str, dict[int, list[Turn]]] = {
        name: {count: [] for count in arguments.concurrency} for name in arguments.servers
    }
    for number in range(arguments.rounds):
        for name in arguments.servers:
            found = uvloop.run(_round(name, arguments, photos))
            for count, turn in found.items():
                turns[name][count].append(turn)
            print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
    return turns


def median(turns: Sequence[Turn]) -> Turn:
    """Return the medians of each number, and the sum of the failures."""
    middle = {
        name: statistics.median(asdict(turn)[name] for turn in turns)
        for name in ("per_second", "p50_ms", "p99_ms", "cpu_ms", "rss_mib")
    }
    return Turn(failed=sum(turn.failed for turn in turns), **middle)


def behind(turns: Turns, ours: str) -> list[str]:
    """Say where the gateway is not ahead of a peer."""
    said = []
    for name in turns:
        if name in (OURS, OURS_SAME):
            continue
        for count in turns[ours]:
            own, other = median(turns[ours][count]), median(turns[name][count])
            if count in _LOADED and own.per_second <= other.per_second:
                said.append(
                    f"{ours} at {count}: {own.per_second:.0f} requests a second, "
                    f"{name} {other.per_second:.0f}"
                )
            if count in _LOADED and own.p99_ms >= other.p99_ms:
                said.append(
                    f"{ours} at {count}: p99 {own.p99_ms:.0f} ms, {name} {other.p99_ms:.0f}"
                )
    return said


async def _round(name: str, arguments: argparse.Namespace, photos: list[bytes]) -> dict[int, Turn]:
    setup = SETUPS[name]
    with tempfile.TemporaryDirectory() as folder:
        port = processes.free_port()
        own = Path(folder) / "files"
        own.mkdir()
        start = setup.start(arguments.cache / name, own, port)
        with processes.serving(
            start.command,
            port=port,
            ready=start.ready,
            log=Path(folder) / "log",
            variables=start.variables,
        ) as server:
            client = HttpClient(port, [setup.request(photo) for photo in photos])
            warm = await load.closed(client, max(arguments.concurrency), _WARM_UP_S)
            if not any(reply.ok for reply in warm):
                said = server.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise RuntimeError(f"{name} answers nothing: {warm[0].outcome}\n{said}")
            found = {}
            for count in arguments.concurrency:
                before = server.usage()
                replies = await load.closed(client, count, arguments.seconds)
                found[count] = _turn(replies, before, server.usage())
            await client.close()
    return found


def _turn(replies: Sequence[load.Reply], before: processes.Usage, after: processes.Usage) -> Turn:
    ok = [reply for reply in replies if reply.ok]
    lasted_s = max(reply.ended_s for reply in replies) - min(reply.began_s for reply in replies)
    return Turn(
        per_second=len(ok) / lasted_s,
        p50_ms=1000 * load.quantile([reply.seconds for reply in ok], 0.5),
        p99_ms=1000 * load.quantile([reply.seconds for reply in ok], 0.99),
        failed=len(replies) - len(ok),
        cpu_ms=1000 * (after.cpu_s - before.cpu_s) / max(len(ok), 1),
        rss_mib=after.rss_bytes / 2**20,
    )


def _print(turns: Turns, photos: list[bytes], arguments: argparse.Namespace) -> None:
    facts = {**processes.machine(), **processes.versions(*_PACKAGES)}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(
        f"{pictures.described(photos)}; {arguments.rounds} rounds of {arguments.seconds:g} s each"
    )
    for title, ours, other in (
        ("Each with its own runtime", OURS, OURS_SAME),
        ("ONNX Runtime behind all", OURS_SAME, OURS),
    ):
        if ours not in turns:
            continue
        print(f"\n### {title}\n\n| | at | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * 6}")
        for name in (one for one in turns if one != other):
            for count, of in turns[name].items():
                print(_row(name, count, median(of)))
        said = behind(turns, ours)
        print("\n" + ("\n".join(said) if said else f"{ours} is ahead of all at 8 and 32."))
    print()
    for name in turns:
        print(f"{name}: {' '.join(SETUPS[name].packages)} {SETUPS[name].described}")


def _row(name: str, count: int, turn: Turn) -> str:
    return (
        f"| {name} | {count} | {turn.per_second:.1f} | {turn.p50_ms:.1f} | {turn.p99_ms:.1f} | "
        f"{turn.failed} | {turn.cpu_ms:.1f} | {turn.rss_mib:.0f} |"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="install the peers, then stop")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "beside-servers")
    parser.add_argument("--servers", nargs="+", choices=tuple(SETUPS), default=list(SETUPS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="at one concurrency")
    parser.add_argument("--concurrency", type=int, nargs="+", default=list(CONCURRENCIES))
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files to send")
    parser.add_argument("--pictures", type=int, default=16, help="how many of them")
    parser.add_argument("--json", type=Path, help="write every round there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
