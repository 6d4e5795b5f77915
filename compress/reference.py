"""ONNX Runtime on the CPU, which says what a graph computes. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.answers import Answers, Asked
from compress.errors import PlanError


def onnx_asked(model: Path, classes: int | None = None) -> Asked:
    """Ask an exported network in ONNX Runtime, the reference.

    Args:
        model: The ONNX file.
        classes: How many its card names, where its outputs tell; None does not ask.

    Raises:
        PlanError: Not a graph that ONNX Runtime takes, or one of another number of classes.
    """
    # Imported late: plans can be checked against recorded answers where it is not installed.
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.capi import onnxruntime_pybind11_state as faults  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As the graph says, in float: INT8 kernels saturate on processors without VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            # It drops a ReLU in front of a QuantizeLinear, in FP8 too, where numbers have a sign
            # (1.32).
            disabled_optimizers=["ReluQuantRewrite"],
        )
    except (faults.Fail, faults.InvalidProtobuf, faults.InvalidGraph) as error:
        raise PlanError(f"ONNX Runtime cannot read {model}: {error}") from error
    names = [output.name for output in session.get_outputs()]
    scored = session.get_outputs()[0].shape[-1]
    if names == ["scores"] and classes not in (None, scored):
        raise PlanError(
            f"{model} tells {scored} classes apart, its card names {classes}. "
            "Export graph and card together."
        )

    def ask(images: npt.NDArray[np.uint8]) -> Answers:
        return dict(zip(names, session.run(names, {"image": images}), strict=True))

    return ask


def name() -> str:
    """Name what :func:`onnx_asked` asks."""
    import onnxruntime  # noqa: PLC0415

    return f"ONNX Runtime {onnxruntime.__version__}, the reference, which computes in float"
