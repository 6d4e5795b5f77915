"""Keep the runtimes that both halves use from reporting to whoever made them."""

from __future__ import annotations

import os
import sys


def switch_off() -> None:
    """Let OpenVINO and ONNX Runtime ask no host and leave no file, in this process.

    Comes before either is imported: OpenVINO reports its own import, and ONNX Runtime reads the
    environment once.

    Source:
        Both as found in OpenVINO 2026.4 (``openvino/tools/ovc/telemetry_utils.py``, which has a
        silent class for where ``openvino_telemetry`` cannot be imported) and in ONNX Runtime 1.32.
    """
    # None makes an import fail. The package cannot be left out, OpenVINO requires it; its own
    # switch is a file in the home folder of whoever runs this.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # import's documented way
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
