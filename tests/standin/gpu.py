"""A GPU of which only the bookkeeping is real: memory, streams, events, graphs."""

from __future__ import annotations

import ctypes
import itertools
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Work = Callable[[], None]

INVALID_VALUE = 1
OUT_OF_MEMORY = 2
INSUFFICIENT_DRIVER = 35
NO_DEVICE = 100
INVALID_HANDLE = 400
ILLEGAL_ADDRESS = 700
CAPTURE_UNSUPPORTED = 900
CAPTURE_INVALIDATED = 901


class Fault(Exception):
    """What the runtime answers with a status other than success."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Stream:
    """Work in order; while it is captured, work is kept instead of done."""

    captured: list[Work] | None = None
    invalid: bool = False


@dataclass
class Gpu:
    """One GPU, or none where ``status`` is not 0.

    Args:
        capability: Compute capability.
        name: As the driver calls it.
        memory_bytes: What can be allocated in all.
        cuda: The newest CUDA version of the driver, 12060 for 12.6.
        captures: Whether kernels can be captured into a graph.
        status: What counting the devices answers.
        faults: Every call that failed, with its status.
    """

    capability: tuple[int, int] = (8, 7)
    name: str = "Orin"
    memory_bytes: int = 1 << 30
    cuda: int = 12060
    captures: bool = True
    status: int = 0
    device: dict[int, Any] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    events: dict[int, float | None] = field(default_factory=dict)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    executables: dict[int, list[Work]] = field(default_factory=dict)
    engines: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    contexts: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    kernels: int = 0
    graph_launches: int = 0
    faults: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._handles = itertools.count(0x1000, 0x10)

    def held(self) -> dict[str, int]:
        """Return how many of each kind have been made and not freed."""
        kinds = ("device", "pinned", "streams", "events", "graphs", "executables")
        counts = {kind: len(getattr(self, kind)) for kind in (*kinds, "engines", "contexts")}
        return {kind: count for kind, count in counts.items() if count}

    def handle(self) -> int:
        return next(self._handles)

    def allocate(self, size: int, memory: dict[int, Any]) -> int:
        used = sum(map(len, self.device.values()))
        if memory is self.device and used + size > self.memory_bytes:
            raise Fault(OUT_OF_MEMORY)
        buffer = (ctypes.c_ubyte * size)()
        address = ctypes.addressof(buffer)
        memory[address] = buffer
        return address

    def move(self, target: int, source: int, size: int) -> None:
        for address in (target, source):
            self.require_memory(address, size)
        ctypes.memmove(target, source, size)

    def require_memory(self, address: int, size: int) -> None:
        """Refuse what would read or write past an allocation."""
        for start, buffer in (*self.device.items(), *self.pinned.items()):
            if start <= address and address + size <= start + len(buffer):
                return
        raise Fault(ILLEGAL_ADDRESS)

    def stream(self, handle: int) -> Stream:
        if handle not in self.streams:
            raise Fault(INVALID_HANDLE)
        return self.streams[handle]

    def enqueue(self, handle: int, work: Work) -> None:
        stream = self.stream(handle)
        if stream.captured is None:
            work()
        else:
            stream.captured.append(work)

    def synchronize(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.invalid = True
            raise Fault(CAPTURE_UNSUPPORTED)

    def forbid_while_capturing(self) -> None:
        """Refuse what a capturing thread may not ask for, such as memory."""
        for stream in self.streams.values():
            if stream.captured is not None:
                stream.invalid = True
                raise Fault(CAPTURE_UNSUPPORTED)

    def end_capture(self, handle: int) -> int:
        stream = self.stream(handle)
        work, stream.captured = stream.captured, None
        invalid, stream.invalid = stream.invalid, False
        if work is None:
            raise Fault(INVALID_VALUE)
        if invalid:
            raise Fault(CAPTURE_INVALIDATED)
        graph = self.handle()
        self.graphs[graph] = work
        return graph

    def launch(self, executable: int, handle: int) -> None:
        if executable not in self.executables:
            raise Fault(INVALID_VALUE)
        self.graph_launches += 1
        for work in self.executables[executable]:
            self.enqueue(handle, work)

    def record(self, event: int, handle: int) -> None:
        def work() -> None:
            self.events[event] = time.perf_counter()

        if event not in self.events:
            raise Fault(INVALID_HANDLE)
        self.enqueue(handle, work)

    def elapsed_ms(self, start: int, end: int) -> float:
        begun, ended = self.events.get(start), self.events.get(end)
        if begun is None or ended is None:
            raise Fault(INVALID_HANDLE)
        return (ended - begun) * 1e3
