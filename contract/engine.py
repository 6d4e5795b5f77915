"""A plan, loaded on this GPU: for the service, the parity check and the timing.

Needs TensorRT (8.5 or later) and a CUDA runtime, and neither at import.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contract import cuda
from contract.engine_log import log_of, refusal
from contract.errors import EngineError

# TensorRT's names; of the others NumPy has no type.
_DTYPES: Final = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
# Each holds activation memory for the largest batch.
_LANES: Final = 4
# Calls that are timed without waiting for the GPU.
_AHEAD: Final = 32
# Before, the contexts of an engine cannot share its one range of shapes.
_SHARED_SINCE: Final = 10

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EngineTensor:
    """One input or output.

    Args:
        name: Its name in the graph.
        dtype: NumPy's name of its type.
        shape: Lengths; -1 for the batch.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def of(self, batch: int) -> tuple[int, ...]:
        """Return the shape for a batch."""
        return tuple(batch if length == -1 else length for length in self.shape)

    def bytes_of(self, batch: int) -> int:
        """Return how much memory a batch takes."""
        return math.prod(self.of(batch)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Buffer:
    """Memory for the largest batch, on both sides."""

    device: int
    pinned: int
    size: int


@dataclass
class _Lane:
    """What runs one batch size: a context of its own, and the graph recorded with it."""

    context: Any
    graph: int | None = None


class Engine:
    """A plan, loaded. One picture batch in, all outputs out; calls take turns.

    Each batch size has an execution context of its own and, where kernels can be recorded, a CUDA
    graph: NVIDIA advises one context a graph, because another batch size would change what the
    context holds for it. The four sizes used last are kept, with TensorRT 8 the last one alone.

    Args:
        plan: The bytes that the builder wrote.
        name: For messages.

    Raises:
        EngineError: TensorRT, CUDA or a GPU is missing; the plan is damaged, or was built by
            another TensorRT or for another GPU; its one input is not ``image``; memory is short.
    """

    def __init__(self, plan: bytes, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._trt = tensorrt()
        self._cuda = cuda.runtime()
        # Asked before TensorRT is: its runtime ends the process where there is no GPU.
        self.device = self._cuda.device()
        self._held = ExitStack()
        self._runtime: Any = None
        self._engine: Any = None
        self._log = log_of(self._trt)
        self._lanes: OrderedDict[int, _Lane] = OrderedDict()
        major = int(self._trt.__version__.split(".", maxsplit=1)[0])
        self._most_lanes = _LANES if major >= _SHARED_SINCE else 1
        self._buffers: dict[str, _Buffer] = {}
        with ExitStack() as undone:
            undone.callback(self._free)
            self._load(plan)
            undone.pop_all()

    @property
    def inputs(self) -> tuple[EngineTensor, ...]:
        """What the plan takes: the pictures."""
        return (self._image,)

    def run(self, images: Images) -> dict[str, npt.NDArray[Any]]:
        """Run one batch.

        Args:
            images: [b, h, w, 3], uint8.

        Raises:
            EngineError: The batch is empty, too large or of another size; TensorRT or CUDA failed;
                the engine is closed.
        """
        batch = len(images) if images.ndim else 0
        self._check(images.dtype, images.shape, batch)
        with self._lock:
            lane = self._lane(batch)
            self._put(images)
            self._go(lane)
            return self._take(batch)

    def time_ms(self, batch: int, calls: int) -> list[float]:
        """Return how long single calls take on the GPU, without any copy between it and the host.

        Calls are put into the stream ahead of the GPU, which comes from one to the next without
        waiting for the host: launching a call does not count.

        Args:
            batch: How many pictures a call has.
            calls: How many are timed, each between two CUDA events.

        Raises:
            EngineError: As :meth:`run`.
        """
        shape = self._image.of(batch)
        self._check(np.dtype(np.uint8), shape, batch)
        # Noise: a GPU draws less power, and clocks higher, on zeros.
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        with self._lock, ExitStack() as events:
            lane = self._lane(batch)
            self._put(images)
            pairs = [
                (events.enter_context(self._event()), events.enter_context(self._event()))
                for _ in range(min(calls, _AHEAD))
            ]
            return [
                taken
                for done in range(0, calls, _AHEAD)
                for taken in self._timed(lane, pairs[: calls - done])
            ]

    def close(self) -> None:
        """Free all that the plan takes, on the GPU and on the host. A second time does nothing."""
        with self._lock:
            self._free()

    def _load(self, plan: bytes) -> None:
        self._log.said.clear()
        try:
            self._runtime = self._trt.Runtime(self._log)
        except (TypeError, RuntimeError) as error:
            raise self._failed("does not start") from error
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                refusal(self.name, self._log.said, self._trt.__version__, self.device)
            )
        self._image, self.outputs = self._tensors()
        self.max_batch = self._profile(2)
        self._min_batch = self._profile(0)
        self._stream = self._keep(self._cuda.make_stream(), self._cuda.destroy_stream)
        for tensor in (self._image, *self.outputs):
            self._buffers[tensor.name] = self._buffer(tensor.bytes_of(self.max_batch))

    def _tensors(self) -> tuple[EngineTensor, tuple[EngineTensor, ...]]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        taken = self._trt.TensorIOMode.INPUT
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == taken]
        outputs = tuple(self._tensor(name) for name in names if name not in inputs)
        images = [self._tensor(name) for name in inputs]
        if [(t.name, t.dtype, len(t.shape), t.shape[-1:]) for t in images] != [
            ("image", "uint8", 4, (3,))
        ]:
            found = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in images)
            raise EngineError(
                f"expected {self.name} to take 'image' uint8 [b, h, w, 3] alone, it takes {found}. "
                "Build it from a bundle of this project."
            )
        return images[0], outputs

    def _tensor(self, name: str) -> EngineTensor:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(
                f"expected {self.name} to have tensors of types that NumPy knows, {name!r} is "
                f"{kind}. Build it from a bundle of this project."
            )
        return EngineTensor(name, _DTYPES[kind], tuple(self._engine.get_tensor_shape(name)))

    def _profile(self, which: int) -> int:
        """Return the smallest (0) or largest (2) batch."""
        return int(self._engine.get_tensor_profile_shape(self._image.name, 0)[which][0])

    def _buffer(self, size: int) -> _Buffer:
        device = self._keep(self._cuda.allocate(size), self._cuda.free)
        pinned = self._keep(self._cuda.allocate_pinned(size), self._cuda.free_pinned)
        return _Buffer(device, pinned, size)

    def _keep(self, handle: int, give_back: Callable[[int], None]) -> int:
        self._held.callback(give_back, handle)
        return handle

    def _check(self, dtype: np.dtype[Any], shape: tuple[int, ...], batch: int) -> None:
        if dtype != np.uint8 or shape != self._image.of(batch):
            raise EngineError(
                f"expected pictures as uint8 {list(self._image.shape)} for {self.name}, got "
                f"{dtype} {list(shape)}. Preprocess them by the model's card."
            )
        if not self._min_batch <= batch <= self.max_batch:
            raise EngineError(
                f"{self.name} was built for batches of {self._min_batch} to {self.max_batch}, got "
                f"{batch}. Send fewer at once, or build it with a larger max batch."
            )

    def _lane(self, batch: int) -> _Lane:
        """Return what runs this batch size; the first time, run it once and record a graph.

        Raises:
            EngineError: The engine is closed; there is no memory for a context.
        """
        if self._engine is None:
            raise EngineError(f"{self.name} is closed. Load the plan again to run it.")
        if batch not in self._lanes:
            while len(self._lanes) >= self._most_lanes:
                self._drop(self._lanes.popitem(last=False)[1])
            self._lanes[batch] = self._recorded(_Lane(self._context(batch)))
        self._lanes.move_to_end(batch)
        return self._lanes[batch]

    def _context(self, batch: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise self._failed("made no execution context")
        # Addresses stay what they are as long as the engine lives, as graphs ask.
        ready = context.set_input_shape(self._image.name, self._image.of(batch)) and all(
            context.set_tensor_address(name, buffer.device)
            for name, buffer in self._buffers.items()
        )
        if not ready:
            raise self._failed(f"took no batch of {batch}")
        for tensor in self.outputs:
            self._require_shape(tensor, tuple(context.get_tensor_shape(tensor.name)), batch)
        return context

    def _require_shape(self, tensor: EngineTensor, found: tuple[int, ...], batch: int) -> None:
        if found != tensor.of(batch):
            raise EngineError(
                f"expected {tensor.name!r} of {self.name} to be {list(tensor.of(batch))} for a "
                f"batch of {batch}, it is {list(found)}. Build it from a bundle of this project."
            )

    def _recorded(self, lane: _Lane) -> _Lane:
        # What TensorRT prepares at the first call cannot be recorded.
        self._go(lane)
        self._cuda.wait(self._stream)
        lane.graph = self._cuda.capture(
            self._stream, lambda: bool(lane.context.execute_async_v3(self._stream))
        )
        return lane

    def _go(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._cuda.launch(lane.graph, self._stream)
        elif not lane.context.execute_async_v3(self._stream):
            raise self._failed("did not run")

    def _put(self, images: Images) -> None:
        buffer = self._buffers[self._image.name]
        _host(buffer.pinned, self._image, len(images))[...] = images
        self._cuda.copy_in(buffer.device, buffer.pinned, images.nbytes, self._stream)

    def _take(self, batch: int) -> dict[str, npt.NDArray[Any]]:
        for tensor in self.outputs:
            buffer = self._buffers[tensor.name]
            size = tensor.bytes_of(batch)
            self._cuda.copy_out(buffer.pinned, buffer.device, size, self._stream)
        self._cuda.wait(self._stream)
        # Copies: the next call writes into the same memory.
        return {
            tensor.name: _host(self._buffers[tensor.name].pinned, tensor, batch).copy()
            for tensor in self.outputs
        }

    def _timed(self, lane: _Lane, pairs: list[tuple[int, int]]) -> list[float]:
        # Not counted: it keeps the GPU busy while the first of those that count is launched.
        self._go(lane)
        for start, end in pairs:
            self._cuda.record(start, self._stream)
            self._go(lane)
            self._cuda.record(end, self._stream)
        return [self._cuda.elapsed_ms(start, end) for start, end in pairs]

    @contextmanager
    def _event(self) -> Iterator[int]:
        event = self._cuda.make_event()
        try:
            yield event
        finally:
            self._cuda.destroy_event(event)

    def _failed(self, what: str) -> EngineError:
        why = self._log.said[-1] if self._log.said else "it does not say why"
        return EngineError(
            f"TensorRT {self._trt.__version__} {what} with {self.name} on {self.device}: {why}"
        )

    def _drop(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._cuda.destroy_graph(lane.graph)
        lane.graph = lane.context = None

    def _free(self) -> None:
        for lane in self._lanes.values():
            self._drop(lane)
        self._lanes.clear()
        # In this order: the reverse is undefined.
        self._engine = None
        self._runtime = None
        self._held.close()


def tensorrt() -> Any:
    """Return the module, which takes a second to import and is seldom there.

    Raises:
        EngineError: It is not installed, or a library that it needs is not.
    """
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"expected TensorRT's Python module 'tensorrt', it cannot be imported: {error}. It "
            "comes with JetPack and NVIDIA's containers; elsewhere: pip install tensorrt."
        ) from error
    except ImportError as error:
        raise EngineError(
            f"TensorRT's Python module is installed and does not load: {error}. Install the "
            "library that it names, such as CUDA's, of the version that this TensorRT asks for."
        ) from error


def _host(address: int, tensor: EngineTensor, batch: int) -> npt.NDArray[Any]:
    """Return pinned memory as an array; it is valid as long as the memory is."""
    memory = (ctypes.c_ubyte * tensor.bytes_of(batch)).from_address(address)
    return np.ctypeslib.as_array(memory).view(np.dtype(tensor.dtype)).reshape(tensor.of(batch))
