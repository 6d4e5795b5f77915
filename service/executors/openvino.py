"""OpenVINO, the embedded default: it gains from INT8 on CPUs where ONNX Runtime hardly does."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

import openvino
from openvino import frontend

from contract.cpu import int8_saturates
from service.errors import ModelError
from service.executors.executor import Images, Outputs, TensorSpec

_OPTIONS: Final = {
    "PERFORMANCE_HINT": "LATENCY",
    # OpenVINO picks bfloat16 on processors that have it, which moves scores by up to 1e-2.
    # Answers shall not depend on the machine, so the float parts stay float32.
    "INFERENCE_PRECISION_HINT": "f32",
}
# They share no base class but Exception.
_ERRORS: Final = (
    RuntimeError,
    frontend.GeneralFailure,
    frontend.InitializationFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)


class OpenVinoNetwork:
    """One graph compiled by OpenVINO.

    Raises:
        ModelError: OpenVINO refuses the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Left to itself OpenVINO tries a broken file as TensorFlow, PyTorch and the rest too.
            reader = frontend.FrontEndManager().load_by_framework("onnx")
            loaded = reader.load(str(path))
            # Asked before the conversion, which uses them up.
            inputs, outputs = loaded.get_inputs(), loaded.get_outputs()
            names = [[place.get_names()[0] for place in places] for places in (inputs, outputs)]
            compiled = _core().compile_model(reader.convert(loaded), "CPU", _options())
            self.inputs, self.outputs = map(_specs, (compiled.inputs, compiled.outputs), names)
        except _ERRORS as error:
            raise ModelError(f"OpenVINO refuses {path.name}: {_gist(error, path)}") from error
        self._path = path
        self._request: Any = compiled.create_infer_request()

    def run(self, images: Images) -> Outputs:
        """Run one batch.

        Raises:
            ModelError: OpenVINO failed.
        """
        try:
            results = self._request.infer({"image": images}, share_inputs=True)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {_gist(error, self._path)}") from error
        return {output.name: results[output.name] for output in self.outputs}

    def close(self) -> None:
        """Drop what OpenVINO holds."""
        self._request = None


def _options() -> dict[str, str]:
    # Without its INT8 kernels OpenVINO computes in float what the graph says, exactly.
    return {**_OPTIONS, "LP_TRANSFORMS_MODE": "NO"} if int8_saturates() else _OPTIONS


@functools.cache
def _core() -> Any:
    # One for the life of the process. Its CPU plugin (2026.4) gives this thread an alternate
    # signal stack and unmaps it when the core goes: the next signal would be a segmentation fault.
    return openvino.Core()


def _specs(ports: Any, names: list[str]) -> tuple[TensorSpec, ...]:
    # Names are those of the file: a compiled port also has those of tensors that became one with
    # it, and any of them may come first.
    return tuple(_spec(port, name) for port, name in zip(ports, names, strict=True))


def _spec(port: Any, name: str) -> TensorSpec:
    shape = tuple(-1 if axis.is_dynamic else axis.get_length() for axis in port.partial_shape)
    return TensorSpec(name, port.element_type.to_dtype().name, shape)


def _gist(error: Exception, path: Path) -> str:
    # The other lines are places in OpenVINO's own sources; the path is nobody's business.
    lines = [line.strip() for line in str(error).splitlines()]
    noise = ("Exception from", "Check '", "FrontEnd API failed")
    said = [line for line in lines if line and not line.startswith(noise)]
    return (said or lines)[0].replace(str(path), path.name)
