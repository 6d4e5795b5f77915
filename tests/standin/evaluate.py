"""Compute an ONNX graph: what a stand-in plan does instead of kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

Evaluate = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def evaluator(model: bytes) -> Evaluate:
    """Return what computes a graph's outputs."""
    names = [output.name for output in onnx.load_from_string(model).graph.output]
    run = _run(model)

    def evaluate(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, run(names, dict(inputs)), strict=True))

    return evaluate


def _run(model: bytes) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - absent where plans are built
    except ImportError:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - slow to import

        return ReferenceEvaluator(onnx.load_from_string(model)).run
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        # It drops a ReLU before a QuantizeLinear, in FP8 too, where numbers have a sign (1.32).
        disabled_optimizers=["ReluQuantRewrite"],
    )
    return session.run
