"""DeiT (Touvron et al., 2021), plain and distilled, as transformers implements it.

Plain DeiT is transformers' ViT class, which is how its authors publish it; distilled DeiT is its
DeiT class. Pruned: query, key, value, the projection after attention, both FFN layers and the
patch embedding. Not pruned: the head, which holds one row a class and decides the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from compress.errors import CheckpointError
from compress.networks import checkpoint as checkpoints
from compress.networks.architecture import building, refuse_unknown
from compress.networks.network import Family
from compress.networks.roles import layers

_CLASSES: dict[str, type[PreTrainedModel]] = {
    "vit": ViTForImageClassification,
    "deit": DeiTForImageClassificationWithTeacher,
}


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained plain DeiT.

    Args:
        architecture: Keyword arguments of ``transformers.ViTConfig``.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    refuse_unknown(architecture, ViTConfig())
    with building():
        return ViTForImageClassification(ViTConfig(**architecture))


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a DeiT; see :func:`compress.networks.checkpoint.load`."""
    return checkpoints.load(checkpoint, classes, _CLASSES, _from_timm)


def blocks(body: nn.Module) -> list[str]:
    """Name the Transformer blocks, first to last."""
    stem = f"{_stem(body)}.layers"
    return [f"{stem}.{index}" for index in range(len(body.get_submodule(stem)))]  # type: ignore[arg-type]


FAMILY = Family(build=build, load=load, layers=layers, blocks=blocks)


def _stem(body: nn.Module) -> str:
    return str(body.base_model_prefix)


def _from_timm(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    state = checkpoints.read_state(folder)
    distilled = "dist_token" in state
    body = _empty_body(state, config, distilled)
    checkpoints.fill(body, _to_transformers(state, distilled), folder, "a timm DeiT")
    return body


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
