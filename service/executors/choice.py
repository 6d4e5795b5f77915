"""Choose the executor by name; a runtime is imported only when it is chosen."""

from __future__ import annotations

import logging

from contract import telemetry
from service.executors.embedded import Compile, EmbeddedExecutor
from service.executors.executor import Executor
from service.settings import Settings

logger = logging.getLogger(__name__)


def load(settings: Settings) -> Executor:
    """Load every model of the repository with the executor that the settings name.

    Raises:
        StartError: There is no repository, or no model in it.
    """
    telemetry.switch_off()
    name = _auto() if settings.executor == "auto" else settings.executor
    return EmbeddedExecutor(name, RUNTIMES[name](), settings.repository)


def _auto() -> str:
    try:
        _openvino()
    except ImportError as error:
        logger.warning("OpenVINO cannot be used (%s); ONNX Runtime runs the networks", error)
        return "onnxruntime"
    return "openvino"


def _openvino() -> Compile:
    from service.executors.openvino import OpenVinoNetwork  # noqa: PLC0415 - optional and slow

    return OpenVinoNetwork


def _onnxruntime() -> Compile:
    from service.executors.onnxruntime import OnnxRuntimeNetwork  # noqa: PLC0415 - as above

    return OnnxRuntimeNetwork


RUNTIMES = {"openvino": _openvino, "onnxruntime": _onnxruntime}
