"""Choose the executor by name; a runtime is imported only when it is chosen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from contract import telemetry
from contract.errors import EngineError
from service.errors import ModelError, StartError
from service.executors import repository
from service.executors.embedded import EmbeddedExecutor
from service.executors.executor import Executor
from service.executors.loading import Compile, CompileForCpu, Lanes
from service.executors.tensorrt import Here, TensorRtNetwork
from service.settings import Settings

logger = logging.getLogger(__name__)

# What takes longer is prepared again for the new version; the next one to load waits so long.
_LONGEST_DRAIN_S: Final = 5.0


def load(settings: Settings) -> Executor:
    """Load every model of the repository with the executor that the settings name.

    Raises:
        StartError: There is no repository, or no model in it; TensorRT is asked for and it, the
            CUDA runtime or a GPU is missing.
    """
    telemetry.switch_off()
    if settings.executor == "triton":
        return _triton(settings)
    folder = settings.repository
    if settings.executor == "tensorrt":
        return _tensorrt(_here(), settings)
    if settings.executor == "auto" and (here := _plans_run(folder)):
        return _tensorrt(here, settings)
    name = _auto() if settings.executor == "auto" else settings.executor
    compile_network = Lanes(RUNTIMES[name](), settings.cpu_concurrency)
    return _embedded(name, compile_network, settings, repository.onnx_file)


def _embedded(
    name: str, compile_network: Compile, settings: Settings, pick: repository.Pick
) -> Executor:
    return EmbeddedExecutor(
        name,
        compile_network,
        settings.repository,
        pick,
        check_s=settings.repository_check_s,
        drain_s=min(settings.deadline_s, _LONGEST_DRAIN_S),
    )


def _triton(settings: Settings) -> Executor:
    from service.executors.triton import TritonExecutor  # noqa: PLC0415 - gRPC is slow to import

    return TritonExecutor(
        settings.triton_url,
        concurrency=settings.triton_concurrency,
        timeout_s=settings.deadline_s,
        check_s=settings.triton_check_s,
        region_bytes=settings.triton_shared_memory_bytes,
    )


def _tensorrt(here: Here, settings: Settings) -> Executor:
    logger.info("TensorRT %s runs plans on %s", here.tensorrt, here.device)
    return _embedded("tensorrt", TensorRtNetwork, settings, here.plan_file)


def _here() -> Here:
    try:
        return Here()
    except EngineError as error:
        raise StartError(
            f"GPUSQ_EXECUTOR=tensorrt cannot be used: {error} Or choose openvino or onnxruntime."
        ) from error


def _plans_run(folder: Path) -> Here | None:
    """Return this machine where it runs plans of at least as many models as it could without."""
    models = repository.folders(folder)
    # TensorRT is looked for only where there is something for it.
    if not any(any(model.glob("*/*.plan")) for model in models):
        return None
    try:
        here = Here()
    except EngineError as error:
        logger.info("the plans of the repository are not used: %s", error)
        return None
    plans = [model for model in models if _readable(model, here.plan_file)]
    graphs = [model for model in models if _readable(model, repository.onnx_file)]
    if len(plans) < len(graphs):
        without = ", ".join(model.name for model in graphs if model not in plans)
        logger.warning(
            "networks run on the CPU, because these have no plan for %s: %s. Build them with "
            "'gpusq plan', or set GPUSQ_EXECUTOR=tensorrt to serve the others alone",
            here.device,
            without,
        )
        return None
    return here if plans else None


def _readable(model: Path, pick: repository.Pick) -> bool:
    try:
        repository.read(model, pick)
    except ModelError:
        return False
    return True


def _auto() -> str:
    try:
        _openvino()
    except ImportError as error:
        logger.warning("OpenVINO cannot be used (%s); ONNX Runtime runs the networks", error)
        return "onnxruntime"
    return "openvino"


def _openvino() -> CompileForCpu:
    from service.executors.openvino import OpenVinoNetwork  # noqa: PLC0415 - optional and slow

    return OpenVinoNetwork


def _onnxruntime() -> CompileForCpu:
    from service.executors.onnxruntime import OnnxRuntimeNetwork  # noqa: PLC0415 - as above

    return OnnxRuntimeNetwork


# What runs ONNX files.
RUNTIMES = {"openvino": _openvino, "onnxruntime": _onnxruntime}
