"""Triton's ``config.pbtxt``: built, written and read through protobuf, never as a string.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT32, TYPE_UINT8, ModelConfig

from compress.errors import PublishError
from compress.plan.bundle import Bundle, Tensor
from contract.card import PARAMETER

CONFIG_FILE: Final = "config.pbtxt"
_TYPES: Final = {"uint8": TYPE_UINT8, "int32": TYPE_INT32, "float32": TYPE_FP32}


def build(
    bundle: Bundle, name: str, *, version: int, backend: str, max_batch_size: int
) -> ModelConfig:
    """Describe one version of a network to Triton.

    Dynamic batching carries no queue policy: with one, Triton 2.51 stalls for half a second
    (docs/decisions.md). The card travels in the parameters.
    """
    parameters = bundle.card.to_parameters()
    return ModelConfig(
        name=name,
        backend=backend,
        max_batch_size=max_batch_size,
        version_policy={"specific": {"versions": [version]}},
        input=[_tensor(tensor) for tensor in bundle.inputs],
        output=[_tensor(tensor) for tensor in bundle.outputs],
        dynamic_batching={},
        parameters={key: {"string_value": value} for key, value in parameters.items()},
    )


def to_text(config: ModelConfig) -> str:
    """Return the configuration in the text form that Triton reads."""
    text: str = text_format.MessageToString(config, as_utf8=True)
    return text


def read(model_folder: Path) -> ModelConfig:
    """Read the configuration of a folder that this package published.

    Raises:
        PublishError: There is none, it cannot be parsed, or it carries no card, so that
            somebody else wrote it.
    """
    path = model_folder / CONFIG_FILE
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise PublishError(
            f"{model_folder} is there but its {CONFIG_FILE} cannot be read: {error}. "
            "Move the folder away or publish under another name."
        ) from error
    if PARAMETER not in config.parameters:
        raise PublishError(
            f"{path} has no parameter {PARAMETER!r}, so it was written by hand or by another "
            "program. Move the folder away or publish under another name."
        )
    return config


def pinned_version(config: ModelConfig) -> int | None:
    """Return the one version that the configuration serves; None when it names no single one."""
    versions = config.version_policy.specific.versions
    return int(versions[0]) if len(versions) == 1 else None


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": _TYPES[tensor.element], "dims": tensor.dims}
