"""Run the ``model.onnx`` beside this file, for a Triton without the ONNX Runtime backend.

Published as ``model.py``: only Triton's Python backend imports it, so it knows nothing of this
package. It needs NumPy and either OpenVINO, which the gateway's embedded executor prefers too, or
ONNX Runtime.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Sequence[Array]]


class TritonPythonModel:
    """One instance of the network, in the shape that Triton's Python backend expects."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network of the version that the server asks for."""
        # Only the server's own interpreter has this module.
        self._triton = importlib.import_module("triton_python_backend_utils")
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        load = _openvino if importlib.util.find_spec("openvino") else _onnxruntime
        self._outputs, self._run = load(path)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all waiting requests as one batch and give each its own rows."""
        images = [
            self._triton.get_input_tensor_by_name(request, "image").as_numpy()
            for request in requests
        ]
        results = self._run(np.concatenate(images))
        ends = np.cumsum([len(image) for image in images])[:-1]
        per_request = zip(*(np.split(result, ends) for result in results), strict=True)
        return [self._response(rows) for rows in per_request]

    def _response(self, rows: Sequence[Array]) -> Any:
        tensors = [
            self._triton.Tensor(name, np.ascontiguousarray(row))
            for name, row in zip(self._outputs, rows, strict=True)
        ]
        return self._triton.InferenceResponse(tensors)


def _openvino(path: Path) -> tuple[list[str], Run]:
    # It would report its import to its maker.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # import's documented way
    import openvino  # noqa: PLC0415 - one of the two is enough

    # Float parts in float32, as in the gateway: bfloat16 would move scores by up to 1e-2.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if _int8_saturates():
        options["LP_TRANSFORMS_MODE"] = "NO"
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()

    def run(images: Array) -> Sequence[Array]:
        results = request.infer({"image": images}, share_inputs=True)
        return [results[output] for output in compiled.outputs]

    return [output.any_name for output in compiled.outputs], run


def _onnxruntime(path: Path) -> tuple[list[str], Run]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415 - one of the two is enough

    options = onnxruntime.SessionOptions()
    if _int8_saturates():
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        path,
        options,
        providers=["CPUExecutionProvider"],
        # It drops a ReLU before a QuantizeLinear, in FP8 too, where numbers have a sign (1.32).
        disabled_optimizers=["ReluQuantRewrite"],
    )
    outputs = [output.name for output in session.get_outputs()]
    return outputs, lambda images: session.run(outputs, {"image": images})


def _int8_saturates() -> bool:
    # On x86 without VNNI the sum of two INT8 products is cut to 16 bits.
    if platform.machine() != "x86_64":
        return False
    return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
