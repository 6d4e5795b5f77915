"""Run the ``model.onnx`` beside this file, for a Triton without the ONNX Runtime backend.

Published as ``model.py``: only Triton's Python backend imports it, so it knows nothing of this
package.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class TritonPythonModel:
    """One instance of the network, in the shape that Triton's Python backend expects."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network of the version that the server asks for."""
        # Only the server's own interpreter has this module.
        self._triton = importlib.import_module("triton_python_backend_utils")
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all waiting requests as one batch and give each its own rows."""
        images = [
            self._triton.get_input_tensor_by_name(request, "image").as_numpy()
            for request in requests
        ]
        results = self._session.run(self._outputs, {"image": np.concatenate(images)})
        ends = np.cumsum([len(image) for image in images])[:-1]
        per_request = zip(*(np.split(result, ends) for result in results), strict=True)
        return [self._response(rows) for rows in per_request]

    def _response(self, rows: Sequence[np.ndarray[Any, Any]]) -> Any:
        tensors = [
            self._triton.Tensor(name, np.ascontiguousarray(row))
            for name, row in zip(self._outputs, rows, strict=True)
        ]
        return self._triton.InferenceResponse(tensors)
