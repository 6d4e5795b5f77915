"""Triton's ``config.pbtxt``: built, written and read through protobuf, never as a string.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT32, TYPE_UINT8, ModelConfig

from compress.errors import PublishError
from compress.plan.bundle import Bundle, Tensor
from contract import plan_card
from contract.card import PARAMETER
from contract.plan_card import PlanCard

PLAN_PLATFORM: Final = "tensorrt_plan"
CONFIG_FILE: Final = "config.pbtxt"
# Up to here each batch size is warmed up.
_EACH: Final = 16
_TYPES: Final = {"uint8": TYPE_UINT8, "int32": TYPE_INT32, "float32": TYPE_FP32}


@dataclass(frozen=True)
class Serving:
    """How Triton runs a network.

    Args:
        backend: "onnxruntime" or "python"; ignored where there are plans.
        max_batch_size: The most pictures at once.
        plans: By file name, one for each kind of GPU; the first is taken by a GPU that none is for,
            which TensorRT then refuses.
        instances: How many run side by side on each GPU.
    """

    backend: str
    max_batch_size: int
    plans: Mapping[str, PlanCard] = field(default_factory=dict)
    instances: int = 1


def build(bundle: Bundle, name: str, version: int, serving: Serving) -> ModelConfig:
    """Describe one version of a network to Triton.

    Dynamic batching carries no queue policy: with one, Triton 2.51 stalls for half a second
    (docs/decisions.md). The cards of network and plans travel in the parameters.
    """
    cards = {**bundle.card.to_parameters(), **plan_card.to_parameters(serving.plans)}
    config = ModelConfig(
        name=name,
        max_batch_size=serving.max_batch_size,
        version_policy={"specific": {"versions": [version]}},
        input=[_tensor(tensor) for tensor in bundle.inputs],
        output=[_tensor(tensor) for tensor in bundle.outputs],
        dynamic_batching={},
        parameters={key: {"string_value": value} for key, value in cards.items()},
    )
    if serving.plans:
        _run_plans(config, serving)
    else:
        config.backend = serving.backend
    return config


def _run_plans(config: ModelConfig, serving: Serving) -> None:
    config.platform = PLAN_PLATFORM
    config.default_model_filename = next(iter(serving.plans))
    for file, card in serving.plans.items():
        config.cc_model_filenames[card.capability] = file
    config.instance_group.add(kind="KIND_GPU", count=serving.instances)
    config.optimization.cuda.graphs = True
    # The first picture of each batch size would otherwise wait for its kernels and its graph.
    image = config.input[0]
    for batch in _warmed(serving.max_batch_size):
        warmup = config.model_warmup.add(name=f"batch of {batch}", batch_size=batch)
        warmup.inputs[image.name].data_type = image.data_type
        warmup.inputs[image.name].dims.extend(image.dims)
        warmup.inputs[image.name].random_data = True


def _warmed(most: int) -> list[int]:
    """Return the batch sizes that run before a model is ready: of large ones some.

    >>> _warmed(3), _warmed(40)[-4:]
    ([1, 2, 3], [15, 16, 32, 40])
    """
    powers = (1 << exponent for exponent in range(most.bit_length()))
    return sorted({*range(1, min(most, _EACH) + 1), *powers, most})


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
