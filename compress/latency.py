"""How long exported networks take on this CPU, measured side by side in one run."""

from __future__ import annotations

import functools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino

from contract.cpu import int8_saturates

# Calls of one contender in a row: those that do not count, then those that do.
_WARM_UP = 2
_BURST = 5


@dataclass(frozen=True)
class Latency:
    """One contender at one batch size.

    Args:
        name: Runtime and precision.
        batch: Pictures a call.
        median_ms: Of one call.
        ratio: The first contender's median over this one's; above 1 is faster.
    """

    name: str
    batch: int
    median_ms: float
    ratio: float


def compare(
    float32: Path,
    compressed: Path,
    batches: tuple[int, ...] = (1, 8),
    repeats: int = 20,
    precision: str = "INT8",
) -> list[Latency]:
    """Time a float32 graph in ONNX Runtime against a compressed one in the embedded runtimes.

    Contenders take turns, so that whatever else the machine does hits all of them, in bursts of a
    few calls: threads of one runtime spin for a while after a call and would slow the next one.

    Args:
        float32: The dense network's graph; the baseline.
        compressed: The compressed network's graph.
        batches: Batch sizes.
        repeats: Counted calls of each contender, rounded up to whole bursts; the median is
            reported.
        precision: Of the compressed network, as its contenders are called.
    """
    contenders: list[tuple[str, Callable[[np.ndarray], Any]]] = [
        ("ONNX Runtime, float32", _onnxruntime(float32)),
        ("OpenVINO, float32", _openvino(float32)),
        (f"ONNX Runtime, {precision}", _onnxruntime(compressed)),
        (f"OpenVINO, {precision}", _openvino(compressed)),
    ]
    height, width = (
        axis.dim_value
        for axis in onnx.load(compressed).graph.input[0].type.tensor_type.shape.dim[1:3]
    )
    rng = np.random.default_rng(0)
    results = []
    for batch in batches:
        pictures = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {name: [] for name, _ in contenders}
        for _turn in range(math.ceil(repeats / _BURST)):
            for name, run in contenders:
                times[name] += _burst_ms(run, pictures)
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        baseline = medians[contenders[0][0]]
        results += [
            Latency(name, batch, median, baseline / median) for name, median in medians.items()
        ]
    return results


def _burst_ms(run: Callable[[np.ndarray], Any], pictures: np.ndarray) -> list[float]:
    for _ in range(_WARM_UP):
        run(pictures)
    taken = []
    for _ in range(_BURST):
        began = time.perf_counter()
        run(pictures)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def machine() -> str:
    """Describe this machine and the runtimes, to stand beside a number."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    kernels = " without VNNI (INT8 networks run in float)" if int8_saturates() else ""
    return (
        f"{model}{kernels}, {os.cpu_count()} cores, ONNX Runtime {onnxruntime.__version__}, "
        f"OpenVINO {openvino.__version__.split('-')[0]}"
    )


def _onnxruntime(model: Path) -> Callable[[np.ndarray], Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if int8_saturates():
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(None, {"image": pictures})


@functools.cache
def _core() -> openvino.Core:
    # One for the life of the process: its CPU plugin (2026.4) leaves a dangling signal stack
    # behind when the core goes, and the next signal would be a segmentation fault.
    return openvino.Core()


def _openvino(model: Path) -> Callable[[np.ndarray], Any]:
    compiled = _core().compile_model(
        model,
        "CPU",
        # As the gateway runs it: bfloat16, this runtime's default, changes answers, and so do
        # INT8 kernels where they saturate.
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            **({"LP_TRANSFORMS_MODE": "NO"} if int8_saturates() else {}),
        },
    )
    request = compiled.create_infer_request()
    return lambda pictures: request.infer({"image": pictures})
