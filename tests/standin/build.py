"""The half of the module ``tensorrt`` that builds: parser, network, configuration, builder."""

from __future__ import annotations

import json
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tests.standin import graph, plan
from tests.standin.names import Native, Severity

# The newest that the documentation of 8.6 names; later versions take what is written here.
_OPSET_OF_8 = 17


class ILogger(Native):
    """Where TensorRT writes. Who derives from it has to call its ``__init__``."""

    Severity = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self._begun = True

    def __setattr__(self, name: str, value: Any) -> None:
        # Python classes derive from this one and have attributes of their own.
        object.__setattr__(self, name, value)

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        ILogger.__init__(self)
        self._least = min_severity

    def log(self, severity: Severity, msg: str) -> None:
        """Write nothing: what the real one writes to the terminal."""


def require_logger(logger: Any) -> Any:
    if not isinstance(logger, ILogger) or not getattr(logger, "_begun", False):
        raise TypeError("incompatible function arguments: expected an ILogger")
    return logger


class IHostMemory(Native):
    """Bytes that TensorRT owns."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    nbytes = property(lambda self: len(self._content))

    def __bytes__(self) -> bytes:
        return bytes(self._content)

    def __len__(self) -> int:
        return len(self._content)


class ITensor(Native):
    def __init__(self, described: dict[str, Any], types: Any) -> None:
        self._described, self._types = described, types

    name = property(lambda self: self._described["name"])
    shape = property(lambda self: tuple(self._described["shape"]))
    dtype = property(lambda self: self._types[self._described["dtype"]])


class ILayer(Native):
    """A layer whose types the builder chooses, unless it is told which."""

    def __init__(self, name: str, bound: dict[str, Any]) -> None:
        self._name, self._bound = name, bound

    name = property(lambda self: self._name)
    precision = property(
        lambda self: self._bound.get(self._name),
        lambda self, kind: self._bound.__setitem__(self._name, kind),
    )

    def set_output_type(self, index: int, dtype: Any) -> None:
        if index:
            raise TypeError(f"layer {self._name} has one output")


class INetworkDefinition(Native):
    def __init__(self, flags: int, types: Any) -> None:
        self._flags, self._types = flags, types
        self._bound: dict[str, Any] = {}
        self._model: onnx.ModelProto | None = None

    num_inputs = property(lambda self: len(self._model.graph.input) if self._model else 0)
    num_outputs = property(lambda self: len(self._model.graph.output) if self._model else 0)
    num_layers = property(lambda self: len(self._model.graph.node) if self._model else 0)

    def get_layer(self, index: int) -> ILayer:
        return ILayer(self._model.graph.node[index].name, self._bound)

    def get_input(self, index: int) -> ITensor:
        return ITensor(graph.tensor(self._model.graph.input[index]), self._types)

    def get_output(self, index: int) -> ITensor:
        return ITensor(graph.tensor(self._model.graph.output[index]), self._types)


class ParserError(Native):
    def __init__(self, said: str) -> None:
        self._said = said

    def desc(self) -> str:
        return self._said

    def node(self) -> int:
        return -1


class OnnxParser(Native):
    _standin: Any

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._logger = self._standin.logger(require_logger(logger), self)
        self._errors: list[ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if said := self._fault(bytes(model)):
            self._errors.append(ParserError(said))
            self._logger.log(Severity.ERROR, f"ModelImporter.cpp: {said}")
            return False
        self._network._model = onnx.load_from_string(bytes(model))
        return True

    def _fault(self, model: bytes) -> str | None:
        try:
            read = onnx.load_from_string(model)
            onnx.checker.check_model(read)
        except (DecodeError, onnx.checker.ValidationError) as error:
            return f"Failed to parse the ONNX model: {error}"
        for node in read.graph.node:
            if node.op_type in {"Gemm", "Conv"} and not all(node.input):
                return f"{node.op_type} {node.name}: an empty input ends the real parser"
        return self._fault_of_8(read) or self._fault_of_picture(read)

    def _fault_of_picture(self, read: onnx.ModelProto) -> str | None:
        pictures = {
            value.name
            for value in read.graph.input
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        }
        for node in read.graph.node:
            if node.op_type != "Cast" and pictures.intersection(node.input):
                return f"{node.op_type} {node.name}: UINT8 is only converted to float"
        return None

    def _fault_of_8(self, read: onnx.ModelProto) -> str | None:
        if self._standin.major != 8:
            return None
        integers = {e.name for e in read.graph.initializer if e.data_type == onnx.TensorProto.INT8}
        for node in read.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in integers:
                return f"{node.input[0]}: invalid weights type of Int8"
        if (found := graph.opset(read)) > _OPSET_OF_8:
            return f"opset {found} is not supported, the newest is {_OPSET_OF_8}"
        return None


class IOptimizationProfile(Native):
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - its names
        self._shapes[input] = [list(min), list(opt), list(max)]

    def get_shape(self, input: str) -> list[tuple[int, ...]]:  # noqa: A002 - its name
        return [tuple(shape) for shape in self._shapes[input]]

    def __bool__(self) -> bool:
        return all(
            all(a <= b <= c for a, b, c in zip(*shapes, strict=True))
            for shapes in self._shapes.values()
        )


class ITimingCache(Native):
    def __init__(self, content: dict[str, Any]) -> None:
        self._kept = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps(self._kept).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._kept["layers"].update(input_cache._kept["layers"])
        return True


class IProgressMonitor(Native):
    """From 10 on. Who derives from it has to call its ``__init__``."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __init__(self) -> None:
        self._begun = True


class IBuilderConfig(Native):
    _standin: Any

    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._profiles: list[IOptimizationProfile] = []
        self._pools: dict[Any, int] = {}
        self._cache: ITimingCache | None = None
        self._tactics = -1
        self._level, self._monitor = 3, None
        self._verbosity = self._standin.module.ProfilingVerbosity.LAYER_NAMES_ONLY

    flags = property(
        lambda self: sum(1 << int(self._standin.module.BuilderFlag[name]) for name in self._flags)
    )
    profiling_verbosity = property(
        lambda self: self._verbosity, lambda self, value: setattr(self, "_verbosity", value)
    )
    builder_optimization_level = property(
        lambda self: self._level, lambda self, value: setattr(self, "_level", value)
    )
    progress_monitor = property(
        lambda self: self._monitor, lambda self, value: setattr(self, "_monitor", value)
    )
    num_optimization_profiles = property(lambda self: len(self._profiles))

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, self._standin.gpu.memory_bytes)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._tactics = tactic_sources
        return True

    def get_tactic_sources(self) -> int:
        return self._tactics

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        here = self._standin.identity()
        if not bytes(serialized_timing_cache):
            return ITimingCache({**here, "layers": {}})
        try:
            return ITimingCache(json.loads(bytes(serialized_timing_cache)))
        except ValueError:
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        here = self._standin.identity()
        if not ignore_mismatch and any(cache._kept.get(k) != v for k, v in here.items()):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(Native):
    _standin: Any

    def __init__(self, logger: ILogger) -> None:
        if self._standin.gpu.status:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = self._standin.logger(require_logger(logger), self)

    platform_has_fast_fp16 = property(lambda self: True)
    platform_has_fast_int8 = property(lambda self: True)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags, self._standin.module.DataType)

    def create_builder_config(self) -> IBuilderConfig:
        return self._standin.module.IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        if said := self._fault(network, config):
            self._logger.log(Severity.ERROR, said)
            return None
        if not self._progress(config):
            return None
        layers = self._layers(network, config)
        if config._cache is not None:
            config._cache._kept["layers"].update({layer["name"]: 1.0 for layer in layers})
        self._standin.building()
        header = {
            **self._standin.identity(),
            "flags": sorted(config._flags),
            "strongly_typed": self._strong(network),
            "bound": {name: kind.name for name, kind in network._bound.items()},
            "level": config._level,
            "tactics": config._tactics,
            "verbosity": config._verbosity.name,
            "profile": config._profiles[0]._shapes if config._profiles else {},
            "layers": layers,
        }
        return IHostMemory(plan.pack(header, network._model.SerializeToString()))

    def _strong(self, network: INetworkDefinition) -> bool:
        flags = self._standin.module.NetworkDefinitionCreationFlag
        if self._standin.major == 11:
            return True
        strong = flags.__members__.get("STRONGLY_TYPED")
        return strong is not None and bool(network._flags & 1 << int(strong))

    def _fault(self, network: INetworkDefinition, config: IBuilderConfig) -> str | None:
        model = network._model
        if model is None:
            return "4: Network must have at least one output"
        if self._standin.major == 8 and not network._flags:
            return "3: [builder.cpp::~Builder] Implicit batch networks are not taken by the parser"
        precise = config._flags & {"FP16", "INT8", "BF16", "FP8", "INT4"}
        if self._strong(network):
            if precise:
                return f"3: strongly typed network and precision flags {sorted(precise)}"
        elif graph.quantized(model) and "INT8" not in config._flags:
            return (
                "4: Int8 precision has been set for a layer or layer output, but int8 is not "
                "configured in the builder"
            )
        dynamic = any(-1 in graph.tensor(value)["shape"] for value in model.graph.input)
        if dynamic and not config._profiles:
            return (
                "4: [network.cpp::validate::3005] Error Code 4: Internal Error (Network has "
                "dynamic or shape inputs, but no optimization profile has been defined.)"
            )
        return None

    def _progress(self, config: IBuilderConfig) -> bool:
        monitor = config._monitor
        if monitor is None:
            return True
        monitor.phase_start("Building Engine", None, 2)
        going_on = all(monitor.step_complete("Building Engine", step) for step in range(2))
        monitor.phase_finish("Building Engine")
        return going_on

    def _layers(self, network: Any, config: IBuilderConfig) -> list[dict[str, Any]]:
        layers = graph.layers(network._model)
        sparse = "SPARSE_WEIGHTS" in config._flags
        for layer in layers:
            layer["picked"] = sparse and layer["sparse"] and self._standin.picks(layer["name"])
        if sparse:
            lists = {
                "Layers eligible for sparse math": [e["name"] for e in layers if e["sparse"]],
                "TRT inference plan picked sparse implementation for layers": [
                    e["name"] for e in layers if e["picked"]
                ],
            }
            for said, names in lists.items():
                self._logger.log(Severity.INFO, f"(Sparsity) {said}: {', '.join(names)}")
        return layers
