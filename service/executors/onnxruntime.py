"""ONNX Runtime: the reference, and the fallback where OpenVINO is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from contract.cpu import cpus, int8_saturates
from service.errors import ModelError
from service.executors.executor import Images, Outputs, TensorSpec

# They share no base class but Exception.
_ERRORS: Final = tuple(
    kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
}


class OnnxRuntimeNetwork:
    """One graph loaded by ONNX Runtime.

    Args:
        path: The file.
        lanes: How many runs there will be at once, each with its share of the processors.

    Raises:
        ModelError: ONNX Runtime refuses the file.
    """

    def __init__(self, path: Path, lanes: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Else they would spin between operators, on processors that decode other pictures: under
        # load that took 40 ms of CPU time a request where this takes 19.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if lanes > 1:
            options.intra_op_num_threads = max(1, cpus() // lanes)
        if int8_saturates():
            # Compute in float what the graph says.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path,
                options,
                providers=["CPUExecutionProvider"],
                # It drops a ReLU in front of a QuantizeLinear, in FP8 too, where numbers have a
                # sign (1.32).
                disabled_optimizers=["ReluQuantRewrite"],
            )
        except _ERRORS as error:
            said = str(error).replace(str(path), path.name)
            raise ModelError(f"ONNX Runtime refuses {path.name}: {said}") from error
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))

    def run(self, images: Images) -> Outputs:
        """Run one batch.

        Raises:
            ModelError: ONNX Runtime failed.
        """
        try:
            results = self._session.run(None, {"image": images})
        except _ERRORS as error:
            raise ModelError(f"ONNX Runtime failed: {error}") from error
        return {
            output.name: np.asarray(values)
            for output, values in zip(self.outputs, results, strict=True)
        }

    def close(self) -> None:
        """Drop what ONNX Runtime holds."""
        self._session = None


def _spec(node: Any) -> TensorSpec:
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(node.name, dtype, shape)
