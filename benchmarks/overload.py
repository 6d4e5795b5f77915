"""Offer the gateway twice what it can do: what is answered, how late, and at what memory.

    python -m benchmarks.overload --seconds 60 --json overload.json

First the peak: closed load, as many requests under way as are let in, so that the gateway always
has work; what it answers in a second is what it can do. Then an open load at --factor times that
rate, with arrivals at random times as from people who do not wait for one another, for --seconds.
The peak is taken once more at the end, and the higher one counts. Each request has the deadline of
the service (--deadline).

- goodput: answers within the deadline, a second; wanted: at least 90 % of the peak. What refusals
  cost the gateway is part of it. What twice the load costs the client is not: it has a processor of
  its own, and the gateway the others, at the peak and beyond it (--together leaves all to both).
- accepted: all but 429 and 503; p99 of their times, counted from when each was due, within the
  deadline.
- every request answered: 200, or a refusal that says when to try again; no connection lost.
- memory: resident memory of the last quarter of the time over that of the first.

Over REST, and over gRPC. Ends with 1 where a goal is missed. About 90 s for each transport with the
defaults. Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import load, pictures, processes
from benchmarks.load import REFUSED, Client, HttpClient, Reply
from benchmarks.processes import ROOT, Server
from benchmarks.vision import VisionClient

# Of the peak; of the deadline; of the first quarter's memory.
_GOODPUT: Final = 0.9
_GROWTH: Final = 1.1
_WARM_UP_S: Final = 3.0
_SAMPLE_S: Final = 0.5
_SHED: Final = ("overloaded", "executor_unavailable", "model_unavailable")
_LATE: Final = "deadline_exceeded"
_ANSWERS: Final = frozenset({"ok", _LATE, *_SHED})
_PACKAGES: Final = ("openvino", "onnxruntime", "fastapi", "uvicorn", "grpcio", "pillow", "numpy")


@dataclass(frozen=True)
class Found:
    """What came of one transport's overload.

    Args:
        peak: Answers a second at capacity.
        offered: Requests a second that were due.
        goodput: Answers within the deadline, a second.
        outcomes: How many requests ended how.
        silent: Refusals that do not say when to try again.
        accepted_p99_s: Of the requests that were not refused.
        refused_p99_s: Of those that were: how quickly they were told.
        first_mib: Median resident memory of the first quarter of the time.
        last_mib: Of the last.
    """

    peak: float
    offered: float
    goodput: float
    outcomes: dict[str, int]
    silent: int
    accepted_p99_s: float
    refused_p99_s: float
    first_mib: float
    last_mib: float


def main(argv: Sequence[str] | None = None) -> int:
    """Print what came; return 1 where a goal is missed."""
    arguments = _parser().parse_args(argv)
    photos = pictures.photos(arguments.photos, arguments.pictures)
    facts = {**processes.machine(), **processes.versions(*_PACKAGES)}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    mine, its = _processors(together=arguments.together)
    shared = "shared with its client" if mine == its else "and one for its client"
    print(f"{pictures.described(photos)}; deadline {arguments.deadline:g} s")
    print(f"processors of the gateway: {len(its)}, {shared}")
    found = uvloop.run(_measure(arguments, photos))
    missed = []
    for transport, one in found.items():
        print(f"\n### {transport}\n")
        print("\n".join(told(one, arguments.deadline)))
        missed += [f"{transport}: {what}" for what in misses(one, arguments.deadline)]
    print("\n" + ("\n".join(missed) if missed else "Every goal is met."))
    if arguments.json:
        content = {
            "facts": facts,
            "deadline_s": arguments.deadline,
            "found": {transport: asdict(one) for transport, one in found.items()},
        }
        arguments.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return int(bool(missed))


def summary(
    peak: float, replies: Sequence[Reply], memory_mib: Sequence[float], deadline_s: float
) -> Found:
    """Sum up one overload.

    Args:
        peak: Answers a second at capacity.
        replies: What came of every request of the open load.
        memory_mib: Samples of the resident memory, in the order of time.
        deadline_s: Of each request.
    """
    began_s = min(reply.began_s for reply in replies)
    lasted_s = max(reply.began_s for reply in replies) - began_s
    shed = [reply for reply in replies if reply.outcome in _SHED]
    accepted = [reply for reply in replies if reply.outcome not in (*_SHED, REFUSED)]
    good = sum(reply.ok and reply.seconds <= deadline_s for reply in replies)
    told_off = [reply for reply in replies if reply.outcome in (*_SHED, _LATE)]
    quarter = max(len(memory_mib) // 4, 1)
    return Found(
        peak=peak,
        offered=len(replies) / lasted_s,
        goodput=good / lasted_s,
        outcomes=dict(Counter(reply.outcome for reply in replies).most_common()),
        silent=sum(not reply.retry_after for reply in told_off),
        accepted_p99_s=load.quantile([reply.seconds for reply in accepted], 0.99),
        refused_p99_s=load.quantile([reply.seconds for reply in shed], 0.99),
        first_mib=statistics.median(memory_mib[:quarter]),
        last_mib=statistics.median(memory_mib[-quarter:]),
    )


def told(found: Found, deadline_s: float) -> list[str]:
    """Say what came, a line each."""
    total = sum(found.outcomes.values())
    counts = ", ".join(f"{count} {outcome}" for outcome, count in found.outcomes.items())
    return [
        f"peak: {found.peak:.1f} a second; offered: {found.offered:.1f} a second",
        f"goodput: {found.goodput:.1f} a second, {100 * found.goodput / found.peak:.0f} % of peak",
        f"{total} requests: {counts}; refusals without Retry-After: {found.silent}",
        f"accepted: p99 {1000 * found.accepted_p99_s:.0f} ms of {1000 * deadline_s:.0f}",
        f"refused: p99 {1000 * found.refused_p99_s:.0f} ms",
        f"memory: {found.first_mib:.0f} MiB in the first quarter, {found.last_mib:.0f} in the last",
    ]


def misses(found: Found, deadline_s: float) -> list[str]:
    """Say which goals are missed."""
    unanswered = {key: n for key, n in found.outcomes.items() if key not in _ANSWERS}
    wanted = {
        f"goodput below {_GOODPUT:.0%} of the peak": found.goodput >= _GOODPUT * found.peak,
        "p99 of accepted beyond the deadline": found.accepted_p99_s <= deadline_s,
        f"memory grew by more than {_GROWTH - 1:.0%}": found.last_mib <= _GROWTH * found.first_mib,
        f"not answered as promised: {unanswered}": not unanswered,
        f"{found.silent} refusals do not say when to try again": not found.silent,
    }
    return [what for what, met in wanted.items() if not met]


async def _measure(arguments: argparse.Namespace, photos: list[bytes]) -> dict[str, Found]:
    found = {}
    for transport in arguments.transports:
        # A gateway each: what one transport left behind shall not count against the next.
        with _gateway(arguments) as (server, rpc_port):
            client: Client
            if transport == "gRPC":
                client = VisionClient(rpc_port, photos)
            else:
                client = HttpClient(
                    server.port, [load.post("/v1/classify", one, "image/jpeg") for one in photos]
                )
            found[transport] = await _overload(client, server, arguments)
            await client.close()
    return found


async def _overload(client: Client, server: Server, arguments: argparse.Namespace) -> Found:
    await load.closed(client, arguments.concurrency, _WARM_UP_S)
    peak = await _peak(client, arguments)
    print(f"peak {peak:.1f} a second; now {arguments.factor:g} times that", file=sys.stderr)
    memory: list[float] = []
    watching = asyncio.create_task(_watch(server, memory))
    replies = await load.open_load(client, arguments.factor * peak, arguments.seconds)
    watching.cancel()
    # The machine may have had less to give at first.
    peak = max(peak, await _peak(client, arguments))
    return summary(peak, replies, memory, arguments.deadline)


async def _peak(client: Client, arguments: argparse.Namespace) -> float:
    """Return how many requests a second are answered when there is always one to answer."""
    seconds: float = arguments.peak_seconds
    replies = await load.closed(client, arguments.concurrency, seconds)
    return sum(reply.ok for reply in replies) / seconds


async def _watch(server: Server, memory_mib: list[float]) -> None:
    while True:
        memory_mib.append(server.usage().rss_bytes / 2**20)
        await asyncio.sleep(_SAMPLE_S)


@contextlib.contextmanager
def _gateway(arguments: argparse.Namespace) -> Iterator[tuple[Server, int]]:
    port, rpc_port = processes.free_port(), processes.free_port()
    mine, its = _processors(together=arguments.together)
    # Processes inherit it.
    os.sched_setaffinity(0, its)
    command, variables = processes.gateway(
        port,
        repository=ROOT / "model_repository",
        executor=arguments.executor,
        cpu_concurrency=arguments.cpu_concurrency or len(its),
        deadline_s=arguments.deadline,
        grpc_port=rpc_port,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.serving(
            command, port=port, ready="/readyz", log=Path(folder) / "log", variables=variables
        ) as server,
    ):
        os.sched_setaffinity(0, mine)
        try:
            yield server, rpc_port
        finally:
            os.sched_setaffinity(0, mine | its)


def _processors(*, together: bool) -> tuple[set[int], set[int]]:
    """Return those of the client and those of the gateway."""
    every = sorted(os.sched_getaffinity(0))
    if together or len(every) == 1:
        return set(every), set(every)
    return {every[-1]}, set(every[:-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--peak-seconds", type=float, default=10.0)
    parser.add_argument("--factor", type=float, default=2.0, help="of the peak that is offered")
    parser.add_argument("--concurrency", type=int, default=16, help="under way at the peak")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds")
    parser.add_argument("--executor", default="auto", choices=("auto", "openvino", "onnxruntime"))
    parser.add_argument(
        "--cpu-concurrency", type=int, help="pictures in a network at once; its processors"
    )
    parser.add_argument(
        "--together", action="store_true", help="give client and gateway the same processors"
    )
    parser.add_argument(
        "--transports", nargs="+", choices=("REST", "gRPC"), default=["REST", "gRPC"]
    )
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files to send")
    parser.add_argument("--pictures", type=int, default=16, help="how many of them")
    parser.add_argument("--json", type=Path, help="write what came there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
