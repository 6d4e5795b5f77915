"""What is said of the server and its models, in the protocol's JSON; gRPC's messages mirror it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata as packages
from typing import Any, Final

from service.executors.executor import Model, TensorSpec
from service.oip.tensors import DATATYPES

Json = dict[str, Any]

# Triton's names of what is offered beyond the protocol itself.
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "statistics")
_PACKAGE: Final = "gpusq-vit"


def server() -> Json:
    """Say what the server is."""
    return {"name": _PACKAGE, "version": _version(), "extensions": [*EXTENSIONS]}


def metadata(model: Model, platform: str) -> Json:
    """Say what a model takes and gives.

    Args:
        model: Which.
        platform: What runs it.
    """
    return {
        "name": model.name,
        "versions": [str(model.version)],
        "platform": platform,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
    }


def config(model: Model, platform: str) -> Json:
    """Say how a model is configured, in the form of Triton's ModelConfig.

    Args:
        model: Which.
        platform: What runs it.
    """
    card = model.card.to_parameters()
    return {
        "name": model.name,
        "platform": platform,
        "backend": platform,
        "version_policy": {"specific": {"versions": [model.version]}},
        "max_batch_size": model.max_batch,
        "input": _typed(model.inputs),
        "output": _typed(model.outputs),
        "parameters": {key: {"string_value": value} for key, value in card.items()},
    }


def index(models: Mapping[str, Model], unavailable: Mapping[str, str]) -> list[Json]:
    """List models.

    Args:
        models: Those that can be asked.
        unavailable: Those that cannot, each with the reason.
    """
    entries = {
        **{name: _entry(name, str(model.version), "READY") for name, model in models.items()},
        **{name: _entry(name, "", "UNAVAILABLE", why) for name, why in unavailable.items()},
    }
    return [entry for _, entry in sorted(entries.items())]


def _version() -> str:
    try:
        return packages.version(_PACKAGE)
    except packages.PackageNotFoundError:
        # It runs from its folder.
        return ""


def _tensor(spec: TensorSpec) -> Json:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [*spec.shape]}


def _typed(specs: Sequence[TensorSpec]) -> list[Json]:
    # With max_batch_size the batch axis is left out.
    return [
        {"name": s.name, "data_type": f"TYPE_{DATATYPES[s.dtype]}", "dims": [*s.shape[1:]]}
        for s in specs
    ]


def _entry(name: str, version: str, state: str, reason: str = "") -> Json:
    return {"name": name, "version": version, "state": state, "reason": reason}
