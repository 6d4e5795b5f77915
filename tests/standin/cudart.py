"""libcudart on a stand-in GPU: real C functions, so that arguments are marshalled as ever."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

from tests.standin.gpu import INVALID_HANDLE, INVALID_VALUE, Fault, Gpu, Stream

# The versions of libcudart that a machine may have; the stand-in is one of them.
FILE = "libcudart.so.12"
_MAJOR, _MINOR = 75, 76
_NAME_BYTES = 256
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (c_void_p,),
    "cudaGetDevice": (c_void_p,),
    "cudaDriverGetVersion": (c_void_p,),
    "cudaDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaMemGetInfo": (c_void_p, c_void_p),
    "cudaMalloc": (c_void_p, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (c_void_p, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (c_void_p, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, c_void_p),
    "cudaGraphInstantiateWithFlags": (c_void_p, c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaEventCreateWithFlags": (c_void_p, c_uint),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (c_void_p, c_void_p, c_void_p),
    "cudaGetLastError": (),
}


class Cudart:
    """What ``ctypes.CDLL`` gives for libcudart.

    Args:
        gpu: What it drives.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._texts: dict[int, Any] = {}
        # No prototypes: like a real library, it leaves those to the caller.
        for name, types in _SIGNATURES.items():
            made = ctypes.CFUNCTYPE(c_int, *types)(self._answered(name))
            setattr(self, name, made)
        made = ctypes.CFUNCTYPE(c_void_p, c_int)(self._error_string)
        self.cudaGetErrorString = made

    def _answered(self, name: str) -> Callable[..., int]:
        """Give a status instead of raising."""
        function = getattr(self, f"_{name}")

        def answer(*arguments: Any) -> int:
            try:
                function(*arguments)
            except Fault as fault:
                self._gpu.faults.append((name, fault.status))
                return fault.status
            return 0

        return answer

    def _error_string(self, status: int) -> int:
        text = self._texts.setdefault(status, ctypes.create_string_buffer(b"error %d" % status))
        return ctypes.addressof(text)

    def _cudaGetDeviceCount(self, count: int) -> None:
        if self._gpu.status:
            raise Fault(self._gpu.status)
        c_int.from_address(count).value = 1

    def _cudaGetDevice(self, device: int) -> None:
        c_int.from_address(device).value = 0

    def _cudaDriverGetVersion(self, version: int) -> None:
        c_int.from_address(version).value = self._gpu.cuda

    def _cudaDeviceGetAttribute(self, value: int, attribute: int, device: int) -> None:
        known = dict(zip((_MAJOR, _MINOR), self._gpu.capability, strict=True))
        if device != 0 or attribute not in known:
            raise Fault(INVALID_VALUE)
        c_int.from_address(value).value = known[attribute]

    def _cudaGetDeviceProperties(self, properties: int, device: int) -> None:
        # The name is the first field in every version; what follows differs.
        name = self._gpu.name.encode()[: _NAME_BYTES - 1] + b"\0"
        ctypes.memmove(properties, name, len(name))

    def _cudaMemGetInfo(self, free: int, total: int) -> None:
        used = sum(map(len, self._gpu.device.values()))
        c_size_t.from_address(free).value = self._gpu.memory_bytes - used
        c_size_t.from_address(total).value = self._gpu.memory_bytes

    def _cudaMalloc(self, pointer: int, size: int) -> None:
        self._gpu.forbid_while_capturing()
        c_void_p.from_address(pointer).value = self._gpu.allocate(size, self._gpu.device)

    def _cudaFree(self, pointer: int | None) -> None:
        self._gpu.forbid_while_capturing()
        _drop(self._gpu.device, pointer, INVALID_VALUE)

    def _cudaHostAlloc(self, pointer: int, size: int, flags: int) -> None:
        self._gpu.forbid_while_capturing()
        c_void_p.from_address(pointer).value = self._gpu.allocate(size, self._gpu.pinned)

    def _cudaFreeHost(self, pointer: int | None) -> None:
        _drop(self._gpu.pinned, pointer, INVALID_VALUE)

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        known = {1: (self._gpu.pinned, self._gpu.device), 2: (self._gpu.device, self._gpu.pinned)}
        if kind not in known:
            raise Fault(INVALID_VALUE)
        # From and to pinned memory only, as everything here that is asynchronous needs.
        for memory, address in zip(known[kind], (source, target), strict=True):
            if not any(start <= address < start + len(held) for start, held in memory.items()):
                raise Fault(INVALID_VALUE)
        self._gpu.enqueue(stream, lambda: self._gpu.move(target, source, size))

    def _cudaStreamCreateWithFlags(self, stream: int, flags: int) -> None:
        c_void_p.from_address(stream).value = handle = self._gpu.handle()
        self._gpu.streams[handle] = Stream()

    def _cudaStreamDestroy(self, stream: int) -> None:
        _drop(self._gpu.streams, stream, INVALID_HANDLE)

    def _cudaStreamSynchronize(self, stream: int) -> None:
        self._gpu.synchronize(stream)

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> None:
        found = self._gpu.stream(stream)
        if found.captured is not None:
            raise Fault(INVALID_VALUE)
        found.captured = []

    def _cudaStreamEndCapture(self, stream: int, graph: int) -> None:
        c_void_p.from_address(graph).value = None
        c_void_p.from_address(graph).value = self._gpu.end_capture(stream)

    def _cudaGraphInstantiateWithFlags(self, executable: int, graph: int, flags: int) -> None:
        if graph not in self._gpu.graphs:
            raise Fault(INVALID_VALUE)
        c_void_p.from_address(executable).value = handle = self._gpu.handle()
        self._gpu.executables[handle] = list(self._gpu.graphs[graph])

    def _cudaGraphDestroy(self, graph: int) -> None:
        _drop(self._gpu.graphs, graph, INVALID_VALUE)

    def _cudaGraphExecDestroy(self, executable: int) -> None:
        _drop(self._gpu.executables, executable, INVALID_VALUE)

    def _cudaGraphLaunch(self, executable: int, stream: int) -> None:
        self._gpu.launch(executable, stream)

    def _cudaEventCreateWithFlags(self, event: int, flags: int) -> None:
        c_void_p.from_address(event).value = handle = self._gpu.handle()
        self._gpu.events[handle] = None

    def _cudaEventDestroy(self, event: int) -> None:
        _drop(self._gpu.events, event, INVALID_HANDLE)

    def _cudaEventRecord(self, event: int, stream: int) -> None:
        self._gpu.record(event, stream)

    def _cudaEventSynchronize(self, event: int) -> None:
        if event not in self._gpu.events:
            raise Fault(INVALID_HANDLE)

    def _cudaEventElapsedTime(self, ms: int, start: int, end: int) -> None:
        c_float.from_address(ms).value = self._gpu.elapsed_ms(start, end)

    def _cudaGetLastError(self) -> None:
        """Forget the last error."""


def _drop(known: dict[int, Any], handle: int | None, status: int) -> None:
    if handle not in known:
        raise Fault(status)
    del known[handle]
