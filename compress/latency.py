"""How long exported networks take on this CPU, measured side by side in one run."""

from __future__ import annotations

import functools
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

from compress.plan.turns import Burst, Timed, in_turns
from contract.cpu import int8_saturates

BURST = Burst(counted=5, warm_up=2)


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

    Args:
        float32: The dense network's graph; the baseline.
        compressed: The compressed network's graph.
        batches: Batch sizes.
        repeats: Counted calls of each contender, rounded up to whole bursts; the median is
            reported.
        precision: Of the compressed network, as its contenders are called.
    """
    taking = contenders(float32, compressed, precision)
    results = []
    for batch in batches:
        times = in_turns(taking, batch, repeats, BURST)
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        baseline = medians[next(iter(taking))]
        results += [
            Latency(name, batch, median, baseline / median) for name, median in medians.items()
        ]
    return results


def contenders(float32: Path, compressed: Path, precision: str) -> dict[str, Timed]:
    """Load both graphs into both runtimes; the first is the baseline.

    Args:
        float32: The dense network's graph.
        compressed: The compressed network's graph.
        precision: Of the compressed network, as people call it.
    """
    first = onnx.load(compressed, load_external_data=False).graph.input[0]
    size = tuple(axis.dim_value for axis in first.type.tensor_type.shape.dim[1:])
    return {
        "ONNX Runtime, float32": _Called(_onnxruntime(float32), size),
        "OpenVINO, float32": _Called(_openvino(float32), size),
        f"ONNX Runtime, {precision}": _Called(_onnxruntime(compressed), size),
        f"OpenVINO, {precision}": _Called(_openvino(compressed), size),
    }


class _Called:
    """A runtime's call with noise for pictures."""

    def __init__(self, call: Callable[[np.ndarray], Any], size: tuple[int, ...]) -> None:
        self.call = call
        self.size = size

    def time_ms(self, batch: int, calls: int) -> list[float]:
        pictures = np.random.default_rng(0).integers(0, 256, (batch, *self.size), dtype=np.uint8)
        taken = []
        for _ in range(calls):
            began = time.perf_counter()
            self.call(pictures)
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
    session = onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        # As the gateway runs it.
        disabled_optimizers=["ReluQuantRewrite"],
    )
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
