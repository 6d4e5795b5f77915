"""Any image classifier of transformers that is made of Linear and Conv2d, by looking at it run.

Pruned: every Linear and every convolution over all channels, with the inputs flattened to one
reduction axis. Quantised but dense: the head, convolutions by groups of channels, and layers that
run more than once a picture. What is neither is named by ``unhandled``, with its reason.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from compress.errors import CheckpointError, RecipeError
from compress.networks import checkpoint as checkpoints
from compress.networks.multihead import split_multihead
from compress.networks.network import Family, Layer
from compress.networks.probe import Probe, probe
from compress.networks.roles import HEAD_REASON

# timm_wrapper loads another library's networks by its own key layout. EfficientNet pools over a
# window that is larger than its maps, which OpenVINO (2026.4) does not load.
_REFUSED = ("timm_wrapper", "efficientnet")
_TYPES: dict[str, Any] = {
    name: AutoModelForImageClassification
    for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if name not in _REFUSED
}
# What networks raise that take something else than pictures, or have no logits.
_UNFIT = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# By the end of a layer's name, the longer end first.
_ROLES = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "query": "query",
    "key": "key",
    "value": "value",
    "qkv": "query, key and value",
    "attention.output.dense": "attention output",
    "o_proj": "attention output",
    "out_proj": "attention output",
    "attn.proj": "attention output",
    "attention.proj": "attention output",
    "intermediate.dense": "FFN in",
    "output.dense": "FFN out",
    "fc1": "FFN in",
    "fc2": "FFN out",
    "dense1": "FFN in",
    "dense2": "FFN out",
    "downsample.reduction": "patch merging",
}


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained classifier.

    Args:
        architecture: ``model_type`` as transformers calls it, and keyword arguments of the
            configuration of that name.

    Raises:
        RecipeError: No such model type, an unknown keyword, values that make no network, or a
            network that cannot be compressed.
    """
    settings = dict(architecture)
    kind = settings.pop("model_type", None)
    if kind not in _TYPES:
        raise RecipeError(
            f"network.architecture.model_type: expected one of {', '.join(_TYPES)}, got {kind!r}"
        )
    if unknown := _unknown(settings, AutoConfig.for_model(kind)):
        raise RecipeError(f"network.architecture: {kind} has no {', '.join(unknown)}")
    try:
        config = AutoConfig.for_model(kind, **settings)
        # None, the default, is not what the automatic classes expect.
        config.architectures = config.architectures or []
        body = AutoModelForImageClassification.from_config(config)  # type: ignore[no-untyped-call]
    except (*_UNFIT, ImportError, StrictDataclassError) as error:
        raise RecipeError(f"network.architecture cannot be built: {error}") from error
    split_multihead(body)
    if reason := _unfit(body):
        raise RecipeError(f"network.architecture: {reason}")
    made: nn.Module = body
    return made


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a classifier; see :func:`compress.networks.checkpoint.load`.

    Raises:
        CheckpointError: As there, or a network that cannot be compressed.
    """
    body = checkpoints.load(checkpoint, classes, _TYPES, _from_timm)
    split_multihead(body)
    if reason := _unfit(body):
        raise CheckpointError(f"{checkpoint}: {reason}")
    return body


def layers(body: nn.Module) -> list[Layer]:
    """Name every Linear and Conv2d that takes part, in the order in which they first run."""
    seen, blocks_ = _look(body)
    left = _left(body, seen)
    names = [name for name in seen.reads if name not in left]
    heads = _heads(body, names, blocks_)
    decided = []
    for index, name in enumerate(names):
        module = body.get_submodule(name)
        first = index == 0 and isinstance(module, nn.Conv2d)
        role = "head" if name in heads else "patch embedding" if first else _role(name, module)
        reason = HEAD_REASON if name in heads else _dense(module, seen.calls[name])
        decided.append(Layer(name, role, seen.reads[name], prune=not reason, reason=reason))
    return decided


def blocks(body: nn.Module) -> list[str]:
    """Name the repeated modules that make one feature map of each picture, first to last.

    They are the innermost elements of lists that hold two layers or more, such as encoder blocks.
    """
    return _look(body)[1]


def unhandled(body: nn.Module) -> dict[str, str]:
    """Name the Linears and Conv2ds that are left in float, each with the reason."""
    return _left(body, probe(body))


FAMILY = Family(build=build, load=load, layers=layers, blocks=blocks, unhandled=unhandled)


def _from_timm(folder: Path, _config: dict[str, Any]) -> PreTrainedModel:
    raise CheckpointError(
        f"expected a model_type in {folder / 'config.json'}, found none: family auto reads the "
        "key layout of transformers alone. Take network.family deit or swin for timm's or the "
        "Swin authors'"
    )


def _unknown(settings: dict[str, Any], config: PreTrainedConfig, stem: str = "") -> list[str]:
    """Return the keywords that a configuration, or one inside it, does not have."""
    found = []
    for key, value in sorted(settings.items()):
        inner = getattr(config, key, None)
        if not hasattr(config, key):
            found.append(f"{stem}{key}")
        elif isinstance(inner, PreTrainedConfig) and isinstance(value, dict):
            found += _unknown(value, inner, f"{stem}{key}.")
    return found


def _unfit(body: Any) -> str:
    """Say why a network cannot be compressed; empty when it can."""
    kind, classes = type(body).__name__, body.config.num_labels
    try:
        answer = probe(body).logits
    except _UNFIT as error:
        return f"{kind} gives no logits for pictures alone: {error}"
    if answer[1:] != (classes,):
        return f"expected {classes} logits a picture from {kind}, got shape {answer}"
    if not any(layer.prune for layer in layers(body)):
        name, reason = next(iter(unhandled(body).items()), ("", "it has no Linear and no Conv2d"))
        return f"nothing in {kind} can be pruned: {name} {reason}"
    return ""


def _look(body: nn.Module) -> tuple[Probe, list[str]]:
    """Probe a body and find its blocks."""
    seen = probe(body)
    held = Counter(
        ".".join(parts[:depth])
        for parts in (name.split(".") for name in seen.reads)
        for depth in range(1, len(parts))
    )
    # A list of which an element holds one layer is the inside of a block.
    narrow = {name.rpartition(".")[0] for name, count in held.items() if count == 1}
    wide = [name for name in seen.maps if held[name] > 1 and name.rpartition(".")[0] not in narrow]
    inner = [name for name in wide if not any(other.startswith(f"{name}.") for other in wide)]
    return seen, inner


def _heads(body: Any, names: list[str], blocks_: list[str]) -> list[str]:
    """Name the layers that give the logits: the last ones, of one output a class."""
    heads: list[str] = []
    for name in reversed(names):
        inside = any(name.startswith(f"{block}.") for block in blocks_)
        if inside or len(body.get_submodule(name).weight) != body.config.num_labels:
            break
        heads.append(name)
    return heads


def _role(name: str, module: nn.Module) -> str:
    for end, role in _ROLES.items():
        if f".{name}".endswith(f".{end}"):
            return role
    return "convolution" if isinstance(module, nn.Conv2d) else "linear"


def _dense(module: nn.Module, calls: int) -> str:
    """Say why a layer is quantised but not pruned; empty where it is pruned."""
    if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
        return "depthwise: an output reads one channel, there is no sum over channels to thin out"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"grouped: {module.groups} small products side by side, no sparse kernel takes them"
    if calls > 1:
        return f"runs {calls} times a picture, and a mask is chosen by what a layer reads once"
    return ""


def _left(body: nn.Module, seen: Probe) -> dict[str, str]:
    weighted = (nn.Linear, nn.Conv2d)
    owners = Counter(id(weight) for _, weight in body.named_parameters(remove_duplicate=False))
    found = {}
    for name, module in body.named_modules():
        if isinstance(module, weighted):
            reason = _own_way(module, owners) or _unseen(name, seen)
            if reason:
                found[name] = reason
    return found


def _own_way(module: nn.Linear | nn.Conv2d, owners: Counter[int]) -> str:
    """Say in what a layer differs from torch's own; empty where it does not."""
    weight = module._parameters.get("weight")  # noqa: SLF001 - tells it from a computed one
    if type(module).forward not in (nn.Linear.forward, nn.Conv2d.forward):
        return f"is a {type(module).__name__}, which computes with its weight in a way of its own"
    if weight is None:
        return "has a weight that is computed from other parameters"
    if owners[id(weight)] > 1:
        return "shares its weight with another module"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"pads by {module.padding_mode!r}, quantised convolutions pad with zeros"
    return ""


def _unseen(name: str, seen: Probe) -> str:
    if name not in seen.reads:
        return "is never reached by a picture"
    if name in seen.constant:
        return "computes the same for every picture"
    if name not in seen.answering:
        return "makes nothing that the answer depends on"
    return ""
