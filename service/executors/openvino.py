"""OpenVINO, the embedded default: it gains from INT8 on CPUs where ONNX Runtime hardly does."""

from __future__ import annotations

import functools
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import openvino
from openvino import frontend

from contract.cpu import cpus, int8_saturates
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

    Args:
        path: The file.
        lanes: How many runs there will be at once, each with its share of the processors.

    Raises:
        ModelError: OpenVINO refuses the file.
    """

    def __init__(self, path: Path, lanes: int = 1) -> None:
        try:
            # Left to itself OpenVINO tries a broken file as TensorFlow, PyTorch and the rest too.
            reader = frontend.FrontEndManager().load_by_framework("onnx")
            loaded = reader.load(str(path))
            # Asked before the conversion, which uses them up.
            inputs, outputs = loaded.get_inputs(), loaded.get_outputs()
            names = [[place.get_names()[0] for place in places] for places in (inputs, outputs)]
            compiled = _core().compile_model(reader.convert(loaded), "CPU", _options(lanes))
            self.inputs, self.outputs = map(_specs, (compiled.inputs, compiled.outputs), names)
        except _ERRORS as error:
            raise ModelError(f"OpenVINO refuses {path.name}: {_gist(error, path)}") from error
        self._path = path
        # A request holds what one run needs.
        self._idle: Any = SimpleQueue()
        for _ in range(lanes):
            self._idle.put(compiled.create_infer_request())

    def run(self, images: Images) -> Outputs:
        """Run one batch.

        Raises:
            ModelError: OpenVINO failed.
        """
        # It may be closed meanwhile.
        idle = self._idle
        request = idle.get()
        try:
            results = request.infer({"image": images}, share_inputs=True)
            return {output.name: results[output.name] for output in self.outputs}
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {_gist(error, self._path)}") from error
        finally:
            idle.put(request)

    def close(self) -> None:
        """Drop what OpenVINO holds."""
        self._idle = None


def _options(lanes: int) -> dict[str, str]:
    options = dict(_OPTIONS)
    if int8_saturates():
        # Without its INT8 kernels OpenVINO computes in float what the graph says, exactly.
        options["LP_TRANSFORMS_MODE"] = "NO"
    if lanes > 1:
        threads = max(lanes, cpus())
        options |= {"NUM_STREAMS": str(lanes), "INFERENCE_NUM_THREADS": str(threads)}
    return options


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
