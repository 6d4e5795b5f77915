"""The half of the module ``tensorrt`` that runs: runtime, engine, context, inspector."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import onnx

from tests.standin import graph, plan
from tests.standin.build import ILogger, require_logger
from tests.standin.evaluate import evaluator
from tests.standin.gpu import Fault
from tests.standin.names import Native, Severity

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}


class Runtime(Native):
    _standin: Any

    def __init__(self, logger: ILogger) -> None:
        # The real one (8.6.0) ends the process with a segmentation fault.
        assert not self._standin.gpu.status, "a runtime was made where there is no GPU"
        self._logger = self._standin.logger(require_logger(logger), self)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        gpu = self._standin.gpu
        content = bytes(serialized_engine)
        try:
            header, model = plan.unpack(content, self._standin.version, gpu.capability)
        except plan.Refused as refused:
            self._logger.log(Severity.ERROR, str(refused))
            self._logger.log(
                Severity.ERROR,
                "4: [runtime.cpp::deserializeCudaEngine::66] Error Code 4: Internal Error "
                "(Engine deserialization failed.)",
            )
            return None
        return self._standin.module.ICudaEngine(header, model, self)


class ICudaEngine(Native):
    _standin: Any

    def __init__(self, header: dict[str, Any], model: bytes, runtime: Runtime) -> None:
        self._header, self._runtime = header, runtime
        self._evaluate = evaluator(model)
        read = onnx.load_from_string(model)
        self._inputs = {v.name: graph.tensor(v) for v in read.graph.input}
        self._outputs = {v.name: graph.tensor(v) for v in read.graph.output}
        self._tensors = {**self._inputs, **self._outputs}
        self._standin.gpu.engines.add(self)

    num_io_tensors = property(lambda self: len(self._tensors))
    num_layers = property(lambda self: len(self._header["layers"]))
    num_optimization_profiles = property(lambda self: 1)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._standin.module.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def get_tensor_dtype(self, name: str) -> Any:
        return self._standin.module.DataType[self._tensors[name]["dtype"]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shapes = self._header["profile"].get(name, [self._tensors[name]["shape"]] * 3)
        return [tuple(shape) for shape in shapes]

    def create_execution_context(self) -> IExecutionContext:
        return self._standin.module.IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._header)


class IExecutionContext(Native):
    _standin: Any

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._flushed = False
        # Up to 8 a range of shapes is that of one context, unless the builder is told otherwise.
        taken = any(other._engine is engine for other in self._standin.gpu.contexts)
        self._ranged = not (taken and self._standin.major == 8)
        self._standin.gpu.contexts.add(self)

    engine = property(lambda self: self._engine)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        shape = tuple(shape)
        if not self._ranged:
            self._say("Profile 0 has been chosen by another IExecutionContext.")
            return False
        if len(shape) != len(most) or not all(
            a <= b <= c for a, b, c in zip(least, shape, most, strict=True)
        ):
            self._say(f"IExecutionContext::setInputShape: {shape} is not in {least} to {most}")
            return False
        self._flushed &= self._shapes.get(name) == shape
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine._inputs:
            return self._shapes.get(name, self._engine.get_tensor_shape(name))
        batch = next(iter(self._shapes.values()), (-1,))[0]
        return tuple(batch if d == -1 else d for d in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            return False
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = self._standin.gpu
        if set(self._addresses) != set(self._engine._tensors):
            self._say("IExecutionContext::enqueueV3: an address is not set")
            return False
        stream = gpu.streams.get(stream_handle)
        if stream is None:
            self._say("IExecutionContext::enqueueV3: no such stream")
            return False
        if stream.captured is not None and not (gpu.captures and self._flushed):
            # What changed since the last call has to be copied first, which no capture allows.
            stream.invalid = True
            self._say("IExecutionContext::enqueueV3: operation not permitted in stream capture")
            return False
        self._flushed = True
        shapes = {name: self.get_tensor_shape(name) for name in self._engine._tensors}
        gpu.enqueue(stream_handle, _Kernel(self._engine, dict(self._addresses), shapes, gpu))
        return True

    def _say(self, what: str) -> None:
        self._engine._runtime._logger.log(Severity.ERROR, what)


class _Kernel:
    """One execution, with addresses and shapes as they were when it was enqueued."""

    def __init__(self, engine: Any, addresses: dict[str, int], shapes: Any, gpu: Any) -> None:
        self._evaluate, self._gpu = engine._evaluate, gpu
        self._types = {name: _NUMPY[t["dtype"]] for name, t in engine._tensors.items()}
        self._inputs = list(engine._inputs)
        self._addresses, self._shapes = addresses, shapes

    def __call__(self) -> None:
        outputs = self._evaluate({name: self._view(name).copy() for name in self._inputs})
        for name, values in outputs.items():
            if values.shape != self._shapes[name]:
                raise Fault(700)
            self._view(name)[...] = values
        self._gpu.kernels += 1

    def _view(self, name: str) -> np.ndarray:
        dtype, shape = np.dtype(self._types[name]), self._shapes[name]
        size = math.prod(shape) * dtype.itemsize
        self._gpu.require_memory(self._addresses[name], size)
        held = next(
            (start, buffer)
            for start, buffer in self._gpu.device.items()
            if start <= self._addresses[name] < start + len(buffer)
        )
        offset = self._addresses[name] - held[0]
        return np.frombuffer(held[1], dtype, math.prod(shape), offset).reshape(shape)


class EngineInspector(Native):
    def __init__(self, header: dict[str, Any]) -> None:
        self._header = header

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - its name
        layers = self._header["layers"]
        if self._header["verbosity"] != "DETAILED":
            return json.dumps({"Layers": [layer["name"] for layer in layers], "Bindings": []})
        described = [_described(layer, self._header["tensorrt"]) for layer in layers]
        return json.dumps({"Layers": described, "Bindings": []})


def _described(layer: dict[str, Any], version: str) -> dict[str, Any]:
    kind = "Int8" if layer["int8"] else "FP32"
    first = {"Name": "input", "Location": "Device", "Dimensions": [1, 1]}
    if version.startswith("11."):
        first |= {"Format": "Row major", "DataType": kind}
    else:
        first["Format/Datatype"] = f"Row major {kind} format"
    kernel = "sparse_gemm" if layer["picked"] else "gemm"
    return {
        "Name": layer["name"],
        "LayerType": "CaskGemmMatrixMultiply",
        "Inputs": [first],
        "Outputs": [],
        "TacticName": f"sm80_xmma_{kernel}_{kind.lower()}",
        "HasSparseWeights": int(layer["sparse"]),
    }
