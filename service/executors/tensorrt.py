"""TensorRT in this process: plans that were built on this GPU, with CUDA graphs.

Where no Triton runs, as on JetPack 6. Reads the folder that Triton reads and chooses the plan as
its backend does. TensorRT is no dependency of the service: the machine brings it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from contract import cuda, plan_card
from contract.engine import Engine, EngineTensor, tensorrt
from contract.errors import CardError, EngineError
from service.errors import ModelError
from service.executors.executor import Images, Outputs, TensorSpec

DEFAULT_FILENAME: Final = "model.plan"


class Here:
    """Which plans this machine runs: those of its TensorRT, for its GPU.

    Raises:
        EngineError: TensorRT, the CUDA runtime or a GPU is missing.
    """

    def __init__(self) -> None:
        self.tensorrt: str = tensorrt().__version__
        self.device = cuda.runtime().device()

    @property
    def capability(self) -> str:
        """The GPU's compute capability as Triton writes it, such as 8.7."""
        return ".".join(map(str, self.device.capability))

    def plan_file(self, config: Any, version: Path) -> Path:
        """Return the plan of a version for this GPU.

        ``cc_model_filenames`` names one for a compute capability, ``default_model_filename`` one
        for every other; without either it is ``model.plan``.

        Raises:
            ModelError: It is not there, or its card says that it does not run here.
        """
        named = config.cc_model_filenames.get(self.capability) or config.default_model_filename
        # A configuration for ONNX Runtime may have a plan beside the file that it names.
        file = named if named.endswith(".plan") else DEFAULT_FILENAME
        path = version / Path(file).name
        if not path.is_file():
            raise ModelError(
                f"version {version.name} has no {path.name} for {self.device}. Build one with "
                "'gpusq plan', or serve the ONNX file with GPUSQ_EXECUTOR=openvino."
            )
        if why := self._refusal(config, path.name):
            raise ModelError(f"{path.name}: {why}")
        return path

    def _refusal(self, config: Any, file: str) -> str | None:
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        try:
            card = plan_card.from_parameters(parameters).get(file)
        except CardError as error:
            raise ModelError(f"config.pbtxt: {error}") from error
        # A plan of another builder has none. TensorRT itself judges it.
        return card.refusal(self.tensorrt, self.capability) if card else None


class TensorRtNetwork:
    """One plan, loaded on the GPU.

    Raises:
        ModelError: TensorRT refuses the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._engine = Engine(path.read_bytes(), path.name)
        except OSError as error:
            raise ModelError(f"{path.name} cannot be read: {error.strerror}") from error
        except EngineError as error:
            raise ModelError(str(error)) from error
        self.inputs = tuple(map(_spec, self._engine.inputs))
        self.outputs = tuple(map(_spec, self._engine.outputs))

    def run(self, images: Images) -> Outputs:
        """Run one batch.

        Raises:
            ModelError: TensorRT or CUDA failed.
        """
        try:
            return self._engine.run(images)
        except EngineError as error:
            raise ModelError(str(error)) from error

    def close(self) -> None:
        """Free what the plan takes on the GPU."""
        self._engine.close()


def _spec(tensor: EngineTensor) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.dtype, tensor.shape)
