"""From a graph to a plan for the GPU of this machine, by TensorRT's own builder.

Written for 8.5, 8.6, 10 and 11. Up to 8 the builder chooses types by its flags, from 10 on it
computes what the graph says, so that each gets the form of the graph that suits it
(:mod:`compress.plan.typed`). Imports neither torch nor pydantic.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnx

from compress.errors import PlanError
from compress.plan import (
    builder_log,
    capability,
    inspector,
    layer_norm,
    picture_input,
    tensorrt_api,
    typed,
)
from compress.plan.capability import Version
from compress.plan.inspector import SparsityProof
from contract import engine_log
from contract.engine import tensorrt

Body = Literal["float32", "tf32", "float16"]

_LOG = logging.getLogger(__name__)
# Exported graphs take no larger batch.
MOST: Final = 1024
# Begins the two lists of the builder, which come at whatever severity.
_SPARSITY: Final = "(Sparsity)"
# Kernels of TensorRT itself: what is left where cuBLAS and cuDNN are not to be called.
_OWN_KERNELS: Final = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")


@dataclass(frozen=True)
class Options:
    """How a plan is built.

    Args:
        body: What is not quantised is computed in this: "float32" with every bit, "tf32" with
            tensor cores that round the operands of products to 10 bits, or "float16" with the
            float32 islands of :mod:`compress.plan.typed`.
        sparse: Whether the builder may pick sparse kernels for 2:4 weights.
        max_batch: Pictures at once, at most.
        best_batch: Pictures at once for which kernels are chosen.
        level: How long the builder looks for faster kernels, 0 to 5 (8.6 and later); TensorRT's own
            default if None.
        half_softmax: Compute the softmax of attention in float16 too, where the body is.
        own_kernels: Use TensorRT's own kernels alone, where cuBLAS and cuDNN are not installed.
    """

    body: Body = "float16"
    sparse: bool = True
    max_batch: int = 8
    best_batch: int = 8
    level: int | None = None
    own_kernels: bool = False
    half_softmax: bool = False

    def __post_init__(self) -> None:
        """Refuse batch sizes that contradict each other.

        Raises:
            PlanError: They do, or the level is none.
        """
        if not 1 <= self.best_batch <= self.max_batch <= MOST:
            raise PlanError(
                f"expected 1 <= best batch <= largest batch <= {MOST}, got {self.best_batch} and "
                f"{self.max_batch}. Change --best-batch or --max-batch."
            )
        if self.level is not None and not 0 <= self.level <= 5:
            raise PlanError(f"the builder's level is from 0 to 5, got {self.level}")


@dataclass(frozen=True)
class Built:
    """A plan, and what is known of how it came about.

    Args:
        plan: The serialised engine.
        proof: Which layers run sparse and which in INT8.
        seconds: That building took.
        flags: Of the builder, by TensorRT's names.
        tensorrt: Its version, on which alone the plan runs.
    """

    plan: bytes
    proof: SparsityProof
    seconds: float
    flags: tuple[str, ...]
    tensorrt: str


def build(
    model: onnx.ModelProto,
    options: Options,
    *,
    timing_cache: Path | None = None,
    what: str = "plan",
) -> Built:
    """Build a plan for the GPU of this machine. Takes minutes.

    Args:
        model: A canonical graph: uint8 ``image`` [b, h, w, 3], explicit Q/DQ or none, float32.
        options: How.
        timing_cache: Times of kernels, read if it is there and written when the plan is done; of
            one version of TensorRT and one kind of GPU.
        what: Is built, for the log.

    Raises:
        PlanError: TensorRT refuses the graph; says what it said.
        EngineError: TensorRT is not installed.
    """
    trt = tensorrt()
    line = capability.version(trt.__version__)
    log = engine_log.log_of(trt)
    # Reasons of an earlier failure are not those of this one.
    log.said.clear()
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, _form(model, line, options), log)
    config = builder.create_builder_config()
    if not line.layer_norms:
        _keep_in_float32(trt, network, config)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    flags = _set_flags(trt, config, line, options, _is_quantized(model))
    _set_limits(trt, config, options)
    config.add_optimization_profile(_profile(builder, network, options))
    _read_timing_cache(config, timing_cache)
    _monitor = tensorrt_api.watch(trt, config, what)
    began = time.monotonic()
    with engine_log.kept(trt, _SPARSITY) as lines:
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanError(f"TensorRT {trt.__version__} built no plan: {tensorrt_api.said(log.said)}")
    seconds = time.monotonic() - began
    _write_timing_cache(config, timing_cache)
    layers = _inspected(trt, log, plan)
    text = "\n".join(lines)
    return Built(
        plan=bytes(plan),
        proof=inspector.prove(builder_log.read(text), inspector.read_layers(layers)),
        seconds=seconds,
        flags=flags,
        tensorrt=trt.__version__,
    )


def _form(model: onnx.ModelProto, line: Version, options: Options) -> onnx.ModelProto:
    read = picture_input.read_by_cast(model)
    if not line.strongly_typed:
        return typed.weakly_typed(read, layer_norms=line.layer_norms)
    if options.body != "float16":
        return read
    return typed.strongly_typed(read, half_softmax=options.half_softmax)


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def _network_flags(trt: Any) -> int:
    # Up to 8 the batch axis has to be asked for; strong typing exists from 10 on, and 11 knows
    # nothing else.
    kinds = trt.NetworkDefinitionCreationFlag
    names = ("EXPLICIT_BATCH",) if int(trt.__version__.split(".")[0]) < 10 else ("STRONGLY_TYPED",)
    found = [tensorrt_api.member(kinds, name) for name in names]
    return sum(1 << int(flag) for flag in found if flag is not None)


def _parse(trt: Any, network: Any, model: onnx.ModelProto, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(model.SerializeToString()):
        return
    errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    raise PlanError(
        f"TensorRT {trt.__version__} does not read this graph: "
        f"{tensorrt_api.said(errors or log.said)}"
    )


def _keep_in_float32(trt: Any, network: Any, config: Any) -> None:
    """Bind the parts of LayerNormalization to float32 where the builder chooses types."""
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name.startswith(layer_norm.PREFIX):
            layer.precision = trt.DataType.FLOAT
            layer.set_output_type(0, trt.DataType.FLOAT)


def _set_flags(
    trt: Any, config: Any, line: Version, options: Options, quantized: bool
) -> tuple[str, ...]:
    wanted = {"TF32": options.body == "tf32", "SPARSE_WEIGHTS": options.sparse}
    if not line.strongly_typed:
        wanted.update(FP16=options.body == "float16", INT8=quantized)
    for name, on in wanted.items():
        flag = getattr(trt.BuilderFlag, name)
        # TF32 is on by itself.
        (config.set_flag if on else config.clear_flag)(flag)
    if not line.layer_norms:
        wanted["OBEY_PRECISION_CONSTRAINTS"] = True
    return tuple(name for name, on in wanted.items() if on)


def _set_limits(trt: Any, config: Any, options: Options) -> None:
    if options.level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise PlanError(
                f"TensorRT {trt.__version__} has no optimisation level, got {options.level}. "
                "Build without one."
            )
        config.builder_optimization_level = options.level
    if options.own_kernels:
        sources = (tensorrt_api.member(trt.TacticSource, name) for name in _OWN_KERNELS)
        config.set_tactic_sources(sum(1 << int(source) for source in sources if source is not None))


def _profile(builder: Any, network: Any, options: Options) -> Any:
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    rest = tuple(image.shape)[1:]
    batches = (1, options.best_batch, options.max_batch)
    profile.set_shape(image.name, *((batch, *rest) for batch in batches))
    return profile


def _read_timing_cache(config: Any, path: Path | None) -> None:
    stored = path.read_bytes() if path is not None and path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return
    _LOG.info("%s is damaged, or of another TensorRT or GPU; kernels are timed anew", path)
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write_timing_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    # Another build may read it at this moment, or write its own.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(bytes(config.get_timing_cache().serialize()))
        unfinished.replace(path)
    except OSError as error:
        # The plan is worth more than what would make the next one quicker.
        _LOG.warning("the times of kernels are not kept: %s", error)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _inspected(trt: Any, log: Any, plan: Any) -> str:
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise PlanError(
            f"TensorRT {trt.__version__} does not load the plan that it has just built: "
            f"{tensorrt_api.said(log.said)}"
        )
    information: str = engine.create_engine_inspector().get_engine_information(
        trt.LayerInformationFormat.JSON
    )
    return information
