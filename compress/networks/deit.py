"""DeiT (Touvron et al., 2021), plain and distilled, as transformers implements it.

Plain DeiT is transformers' ViT class, which is how its authors publish it; distilled DeiT is its
DeiT class. Pruned: query, key, value, the projection after attention, both FFN layers and the
patch embedding. Not pruned: the head, which holds one row a class and decides the answer.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers import logging as transformers_logging

from compress.errors import CheckpointError, RecipeError
from compress.networks.network import Family, Layer

_CLASSES: dict[str, type[PreTrainedModel]] = {
    "vit": ViTForImageClassification,
    "deit": DeiTForImageClassificationWithTeacher,
}
_ROLES = {
    "attention.q_proj": ("query", "attention input"),
    "attention.k_proj": ("key", "attention input"),
    "attention.v_proj": ("value", "attention input"),
    "attention.o_proj": ("attention output", "attention output"),
    "mlp.fc1": ("FFN in", "FFN in"),
    "mlp.fc2": ("FFN out", "FFN out"),
}
_HEAD_REASON = "the head stays dense: one row a class, and every answer passes through it"
# What damaged files make their readers raise.
_UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained plain DeiT.

    Args:
        architecture: Keyword arguments of ``transformers.ViTConfig``.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    if unknown := sorted(key for key in architecture if not hasattr(ViTConfig(), key)):
        raise RecipeError(f"network.architecture: ViTConfig has no {', '.join(unknown)}")
    try:
        return ViTForImageClassification(ViTConfig(**architecture))
    except (LookupError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise RecipeError(f"network.architecture cannot be built: {error}") from error


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a DeiT from a local folder or from the Hugging Face hub, in float32.

    A folder holds ``config.json`` and the weights, in transformers' key layout or in timm's.

    Args:
        checkpoint: The folder, or the name on the hub.
        classes: How many the labels name.

    Raises:
        CheckpointError: Nothing there, another architecture or number of classes, or keys that
            do not fit.
    """
    body = _load(checkpoint)
    found = body.config.num_labels
    if found != classes:
        raise CheckpointError(
            f"{checkpoint} tells {found} classes apart, the recipe's labels name {classes}. "
            "Give the label set that it was trained on."
        )
    return body


def _load(checkpoint: str) -> PreTrainedModel:
    folder = Path(checkpoint)
    if not folder.is_dir():
        if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
            raise CheckpointError(f"expected a folder with config.json and weights at {checkpoint}")
        return _from_transformers(checkpoint)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"expected a config.json in {folder}, found none")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config_file} is not JSON: {error}") from error
    return _from_transformers(checkpoint) if "model_type" in config else _from_timm(folder, config)


def layers(body: nn.Module) -> list[Layer]:
    """Name every layer with weights and say what is done to it."""
    return [_layer(name) for name, module in body.named_modules() if isinstance(module, _WEIGHTED)]


def blocks(body: nn.Module) -> list[str]:
    """Name the Transformer blocks, first to last."""
    stem = f"{_stem(body)}.layers"
    return [f"{stem}.{index}" for index in range(len(body.get_submodule(stem)))]  # type: ignore[arg-type]


_WEIGHTED = (nn.Linear, nn.Conv2d)
FAMILY = Family(build=build, load=load, layers=layers, blocks=blocks)


def _layer(name: str) -> Layer:
    if "classifier" in name:
        return Layer(name, "head", name, prune=False, reason=_HEAD_REASON)
    if name.endswith("patch_embeddings.projection"):
        return Layer(name, "patch embedding", name)
    inner = next(key for key in _ROLES if name.endswith(key))
    role, reads = _ROLES[inner]
    return Layer(name, role, f"{name.removesuffix(inner)}{reads}")


def _stem(body: nn.Module) -> str:
    return str(body.base_model_prefix)


def _from_transformers(checkpoint: str) -> PreTrainedModel:
    # Its own progress bars and warnings say nothing that the checks below do not.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type not in _CLASSES:
            known = ", ".join(_CLASSES)
            raise CheckpointError(
                f"{checkpoint} is a {config.model_type!r}; family deit takes model types {known}"
            )
        loaded: Any = _CLASSES[config.model_type].from_pretrained(
            checkpoint,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    except _UNREADABLE as error:
        place = "" if Path(checkpoint).is_dir() else "there is no such folder, and the hub said: "
        raise CheckpointError(f"cannot load {checkpoint}: {place}{error}") from error
    body: PreTrainedModel = loaded[0]
    found = loaded[1]
    if mismatched := sorted(found["mismatched_keys"]):
        key, came, wanted = mismatched[0]
        raise CheckpointError(
            f"{checkpoint}: {key} has shape {tuple(came)}, expected {tuple(wanted)}"
        )
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"{checkpoint} lacks {len(missing)} weights: {', '.join(missing[:5])}"
        )
    return body


def _from_timm(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    state = _read_state(folder)
    distilled = "dist_token" in state
    body = _empty_body(state, config, distilled)
    renamed = dict(_to_transformers(state, distilled))
    expected = body.state_dict()
    missing = sorted(expected.keys() - renamed.keys())
    unknown = sorted(renamed.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{folder} does not hold a timm DeiT: {len(missing)} weights missing "
            f"({', '.join(missing[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])})"
        )
    for key, weight in renamed.items():
        if weight.shape != expected[key].shape:
            came, wanted = tuple(weight.shape), tuple(expected[key].shape)
            raise CheckpointError(f"{folder}: {key} has shape {came}, expected {wanted}")
    body.load_state_dict({key: weight.float() for key, weight in renamed.items()})
    return body


def _read_state(folder: Path) -> dict[str, Tensor]:
    for name in _WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            break
    else:
        raise CheckpointError(f"expected one of {', '.join(_WEIGHT_FILES)} in {folder}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(f"cannot read {path}: {type(error).__name__}") from error
    # The authors' own files keep the weights under "model".
    return dict(state.get("model", state))


def _empty_body(
    state: dict[str, Tensor], config: dict[str, Any], distilled: bool
) -> PreTrainedModel:
    """Build the body whose shape the weights themselves tell."""
    try:
        patches = state["patch_embed.proj.weight"]
        hidden, channels, patch = patches.shape[0], patches.shape[1], patches.shape[2]
        classes = state["head.weight"].shape[0]
        positions = state["pos_embed"].shape[1] - (2 if distilled else 1)
        intermediate = state["blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"not a timm DeiT checkpoint: it lacks {error}") from error
    depth = sum(key.endswith(".mlp.fc1.weight") for key in state)
    shape = {
        "hidden_size": hidden,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": int(positions**0.5) * patch,
        "num_hidden_layers": depth,
        "intermediate_size": intermediate,
        # Every DeiT has heads of 64 channels; a config that says otherwise wins.
        "num_attention_heads": config.get("num_heads", max(1, hidden // 64)),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-6),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "num_labels": classes,
    }
    if distilled:
        return DeiTForImageClassificationWithTeacher(DeiTConfig(**shape))
    return ViTForImageClassification(ViTConfig(**shape))


def _to_transformers(state: dict[str, Tensor], distilled: bool) -> list[tuple[str, Tensor]]:
    stem = "deit" if distilled else "vit"
    outer = {
        "cls_token": f"{stem}.embeddings.cls_token",
        "dist_token": f"{stem}.embeddings.distillation_token",
        "pos_embed": f"{stem}.embeddings.position_embeddings",
        "patch_embed.proj": f"{stem}.embeddings.patch_embeddings.projection",
        "norm": f"{stem}.layernorm",
        "head": "cls_classifier" if distilled else "classifier",
        "head_dist": "distillation_classifier",
    }
    inner = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    renamed: list[tuple[str, Tensor]] = []
    for key, weight in state.items():
        module, _, kind = key.rpartition(".")
        if key in outer:
            renamed.append((outer[key], weight))
        elif module in outer:
            renamed.append((f"{outer[module]}.{kind}", weight))
        elif module.endswith("attn.qkv"):
            block = f"{stem}.layers.{module.split('.')[1]}"
            for part, piece in zip("qkv", weight.tensor_split(3), strict=True):
                renamed.append((f"{block}.attention.{part}_proj.{kind}", piece.clone()))
        else:
            _, index, rest = (*module.split(".", 2), "", "")[:3]
            renamed.append((f"{stem}.layers.{index}.{inner.get(rest, rest)}.{kind}", weight))
    return renamed
