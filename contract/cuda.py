"""The few calls of the CUDA runtime that running a plan takes, by ctypes alone.

``libcudart`` comes with CUDA, with JetPack, and as a wheel; any version from 11.4 on does. Only
functions whose signature is the same in all of them are called.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.errors import EngineError

_FILES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
# Beside Python's packages, newest first: NVIDIA's wheels of CUDA 13, 12 and 11, and of TensorRT.
_WHEELS: Final = ("nvidia/cu*/lib", "nvidia/cuda_runtime/lib", "tensorrt_libs", "tensorrt")
_TOOLKIT: Final = Path("/usr/local/cuda/lib64")
_DRIVER: Final = Path("/proc/driver/nvidia/version")

# Numbers of driver_types.h.
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING: Final = 1
# Another thread may allocate while this one captures.
_CAPTURE_THREAD_LOCAL: Final = 1
# The structure has the name first in every version and is never as large as this.
_PROPERTIES_BYTES, _NAME_BYTES = 16_384, 256

_OUT: Final = POINTER(c_void_p)
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaGetDevice": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (_OUT, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (_OUT, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (_OUT, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, _OUT),
    # cudaGraphInstantiate takes five arguments up to CUDA 11 and three from 12 on.
    "cudaGraphInstantiateWithFlags": (_OUT, c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaEventCreateWithFlags": (_OUT, c_uint),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaGetLastError": (),
}


@dataclass(frozen=True)
class Device:
    """A GPU as CUDA sees it.

    Args:
        name: As the driver calls it.
        capability: Compute capability, major and minor.
        driver: Version of the driver and of the newest CUDA that it runs.
        memory_bytes: All of its memory; on a Jetson that of the whole machine.
    """

    name: str
    capability: tuple[int, int]
    driver: str
    memory_bytes: int

    def __str__(self) -> str:
        """Return name and capability: ``Orin (8.7)``."""
        return f"{self.name} ({self.capability[0]}.{self.capability[1]})"


class Runtime:
    """The CUDA runtime on the GPU that is this process's first. Handles and addresses are ints.

    Args:
        library: libcudart, as ctypes loads it.

    Raises:
        EngineError: The library lacks a function, as those before CUDA 11.4 do.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, types in _SIGNATURES.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise EngineError(
                    f"expected libcudart of CUDA 11.4 or later, this one has no {name}. Install "
                    "a newer CUDA runtime."
                ) from error
            function.argtypes, function.restype = types, c_int
        library.cudaGetErrorString.argtypes = (c_int,)
        library.cudaGetErrorString.restype = c_char_p

    def device(self) -> Device:
        """Return what the GPU is.

        Raises:
            EngineError: There is none, or its driver is older than this CUDA runtime.
        """
        if status := self.count_status():
            raise EngineError(
                f"expected an NVIDIA GPU with a driver for this CUDA, CUDA says: "
                f"{self._text(status)}. Run on a machine where nvidia-smi or tegrastats shows a "
                "GPU, and give a container access to it."
            )
        index = c_int()
        self._call("cudaGetDevice", ctypes.byref(index))
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, index)
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        major, minor = (
            self._attribute(which, index) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
        )
        name = properties.raw[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace")
        return Device(name, (major, minor), self._driver(), total.value)

    def count_status(self) -> int:
        """Return 0 where there is a GPU that this library can use, else CUDA's number for why."""
        return int(self._library.cudaGetDeviceCount(ctypes.byref(c_int())))

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes of the GPU's memory.

        Raises:
            EngineError: There is not that much.
        """
        return self._made("cudaMalloc", c_size_t(size))

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` gave."""
        self._give_back("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        """Return the address of host memory that copies to and from the GPU need not wait for.

        Raises:
            EngineError: There is not that much.
        """
        return self._made("cudaHostAlloc", c_size_t(size), 0)

    def free_pinned(self, address: int) -> None:
        """Give back what :meth:`allocate_pinned` gave."""
        self._give_back("cudaFreeHost", address)

    def copy_in(self, device: int, pinned: int, size: int, stream: int) -> None:
        """Copy from pinned memory to the GPU when the stream gets there."""
        self._call("cudaMemcpyAsync", device, pinned, size, _HOST_TO_DEVICE, stream)

    def copy_out(self, pinned: int, device: int, size: int, stream: int) -> None:
        """Copy from the GPU to pinned memory when the stream gets there."""
        self._call("cudaMemcpyAsync", pinned, device, size, _DEVICE_TO_HOST, stream)

    def make_stream(self) -> int:
        """Return a stream that does not wait for the default one."""
        return self._made("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Give back what :meth:`make_stream` gave."""
        self._give_back("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        """Wait until all that was put into a stream is done.

        Raises:
            EngineError: Some of it failed.
        """
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Record what work puts into a stream, without doing it, as a graph.

        Args:
            stream: Where the work goes.
            work: Says whether it succeeded.

        Returns:
            What :meth:`launch` takes; None where this work cannot be recorded.
        """
        if self._library.cudaStreamBeginCapture(stream, _CAPTURE_THREAD_LOCAL):
            self._library.cudaGetLastError()
            return None
        graph = c_void_p()
        try:
            done = self._end_capture(stream, work, graph)
            return self._instantiate(graph) if done else None
        finally:
            if graph.value:
                self._give_back("cudaGraphDestroy", graph.value)
            # An error that was met above would be reported by a later, innocent call.
            self._library.cudaGetLastError()

    def launch(self, graph: int, stream: int) -> None:
        """Do what was recorded."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give back what :meth:`capture` gave."""
        self._give_back("cudaGraphExecDestroy", graph)

    def make_event(self) -> int:
        """Return an event that takes the time."""
        return self._made("cudaEventCreateWithFlags", 0)

    def destroy_event(self, event: int) -> None:
        """Give back what :meth:`make_event` gave."""
        self._give_back("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Take the time when the stream gets there."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Wait for the later of two events and return the time between them.

        Raises:
            EngineError: What lies between them failed.
        """
        self._call("cudaEventSynchronize", end)
        elapsed = c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed), start, end)
        return elapsed.value

    def _end_capture(self, stream: int, work: Callable[[], bool], graph: c_void_p) -> bool:
        try:
            done = work()
        finally:
            # In any case: a stream that is being recorded is of no other use.
            status = self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        return done and not status

    def _instantiate(self, graph: c_void_p) -> int | None:
        made = c_void_p()
        status = self._library.cudaGraphInstantiateWithFlags(ctypes.byref(made), graph, 0)
        return None if status else made.value

    def _made(self, name: str, *arguments: Any) -> int:
        made = c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value or 0

    def _attribute(self, which: int, device: c_int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _driver(self) -> str:
        version = c_int()
        self._call("cudaDriverGetVersion", ctypes.byref(version))
        newest = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        found = _driver_version(_DRIVER)
        return f"{found}, {newest}" if found else newest

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            # What it remembers would be reported by a later, innocent call.
            self._library.cudaGetLastError()
            raise EngineError(f"the CUDA call {name} failed: {self._text(status)}.{_help(status)}")

    def _give_back(self, name: str, handle: int) -> None:
        # After an error of the GPU this fails too, and nothing can be done about it.
        getattr(self._library, name)(handle)
        self._library.cudaGetLastError()

    def _text(self, status: int) -> str:
        said: bytes | None = self._library.cudaGetErrorString(status)
        return f"{said.decode(errors='replace') if said else 'unknown'} (error {status})"


@functools.cache
def runtime() -> Runtime:
    """Return the CUDA runtime of this process: the first libcudart that can use the GPU.

    Raises:
        EngineError: There is no libcudart, or only one that is too old.
    """
    loaded = []
    old: EngineError | None = None
    for candidate in _candidates():
        try:
            found = Runtime(ctypes.CDLL(candidate))
        except OSError:
            continue
        except EngineError as error:
            old = error
            continue
        # A runtime newer than the driver loads all the same; an older one beside it may do.
        if not found.count_status():
            return found
        loaded.append(found)
    if not loaded:
        raise old or EngineError(
            f"expected the CUDA runtime library ({', '.join(_FILES[:3])}), found none. Install it "
            "with CUDA or JetPack, or: pip install nvidia-cuda-runtime-cu12."
        )
    return loaded[0]


def _candidates() -> Iterator[str]:
    yield from _FILES
    yield from (str(_TOOLKIT / file) for file in _FILES)
    for wheel in _WHEELS:
        for folder in sys.path:
            files = Path(folder or os.curdir).glob(f"{wheel}/libcudart.so*")
            yield from map(str, sorted(files, reverse=True))


def _driver_version(file: Path) -> str:
    """Return the version that NVIDIA's kernel module tells, empty where it tells none."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", file.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[0] if found else ""


def _help(status: int) -> str:
    if status == 2:  # cudaErrorMemoryAllocation
        return " Build with a smaller batch, or close what else uses the GPU."
    return ""
