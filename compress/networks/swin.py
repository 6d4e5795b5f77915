"""Swin (Liu et al., ICCV 2021, arXiv:2103.14030), as transformers implements it.

Pruned: query, key, value, the projection after attention, both FFN layers, patch merging and the
patch embedding. Not pruned: the head, which holds one row a class and decides the answer. The
relative position tables are no operands of a product and stay float.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, SwinConfig, SwinForImageClassification

from compress.errors import CheckpointError
from compress.networks import checkpoint as checkpoints
from compress.networks.architecture import building, refuse_unknown
from compress.networks.network import Family
from compress.networks.roles import layers

_CLASSES: dict[str, type[PreTrainedModel]] = {"swin": SwinForImageClassification}
_OUTER = {
    "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
    "patch_embed.norm": "swin.embeddings.norm",
    "norm": "swin.layernorm",
    "head": "classifier",
    # timm from 0.9 on.
    "head.fc": "classifier",
}
_INNER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "attn": "attention.relative_position_bias",
}
# Constants that the older layouts store beside the weights.
_DERIVED = ("relative_position_index", "attn_mask")


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained Swin.

    Args:
        architecture: Keyword arguments of ``transformers.SwinConfig``.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    refuse_unknown(architecture, SwinConfig())
    with building():
        return SwinForImageClassification(SwinConfig(**architecture))


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a Swin; see :func:`compress.networks.checkpoint.load`."""
    return checkpoints.load(checkpoint, classes, _CLASSES, _from_official)


def read(checkpoint: str) -> nn.Module:
    """Load a Swin as :func:`load` does, whatever its number of classes."""
    return checkpoints.read(checkpoint, _CLASSES, _from_official)


def blocks(body: nn.Module) -> list[str]:
    """Name the Transformer blocks, first to last."""
    depths = body.config.depths  # type: ignore[union-attr]
    return [
        f"swin.encoder.layers.{stage}.blocks.{index}"
        for stage, depth in enumerate(depths)  # type: ignore[arg-type]
        for index in range(depth)
    ]


FAMILY = Family(build=build, load=load, layers=layers, blocks=blocks)


def _from_official(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    state = checkpoints.read_state(folder)
    head = state.get("head.weight", state.get("head.fc.weight"))
    if head is None:
        raise CheckpointError("not a Swin checkpoint: it lacks 'head.weight'")
    shape = {**architecture_of(state, config), "num_labels": head.shape[0]}
    body = SwinForImageClassification(SwinConfig(**shape))
    checkpoints.fill(body, to_transformers(state), folder, "a Swin of timm or of its authors")
    return body


def architecture_of(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """Read the keyword arguments of ``SwinConfig`` off the weights themselves.

    Args:
        state: Weights in the layout of the Swin authors or of timm, with or without the head.
        config: What the folder's config says beside them.

    Raises:
        CheckpointError: A weight that every Swin has is missing.
    """
    try:
        patches = state["patch_embed.proj.weight"]
        tables = [
            state[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"]
            for stage in range(checkpoints.count(state, "layers."))
        ]
        hidden = state["layers.0.blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"not a Swin checkpoint: it lacks {error}") from error
    window = (math.isqrt(tables[0].shape[0]) + 1) // 2
    return {
        "embed_dim": patches.shape[0],
        "num_channels": patches.shape[1],
        "patch_size": patches.shape[2],
        # Windows of 7 belong to 224 pixels and of 12 to 384; a config that says otherwise wins.
        "image_size": config.get("img_size", 32 * window),
        "depths": [
            checkpoints.count(state, f"layers.{stage}.blocks.") for stage in range(len(tables))
        ],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": window,
        "mlp_ratio": hidden / patches.shape[0],
        "layer_norm_eps": config.get("layer_norm_eps", 1e-5),
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in state,
    }


def to_transformers(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Rename the weights of a Swin of its authors or of timm to transformers' names."""
    # timm from 0.9 on merges patches at the beginning of a stage instead of at the end.
    merged_first = "layers.0.downsample.reduction.weight" not in state
    renamed: list[tuple[str, Tensor]] = []
    for key, weight in state.items():
        module, _, kind = key.rpartition(".")
        if kind in _DERIVED:
            continue
        if module in _OUTER:
            renamed.append((f"{_OUTER[module]}.{kind}", weight))
            continue
        _, stage, inside = (*module.split(".", 2), "", "")[:3]
        if inside.startswith("downsample"):
            stage = str(int(stage) - merged_first)
        stem = f"swin.encoder.layers.{stage}"
        _, index, rest = (*inside.split(".", 2), "", "")[:3]
        if inside.startswith("downsample"):
            renamed.append((f"{stem}.{inside}.{kind}", weight))
        elif rest == "attn.qkv":
            for part, piece in zip("qkv", weight.tensor_split(3), strict=True):
                name = f"{stem}.blocks.{index}.attention.{part}_proj.{kind}"
                renamed.append((name, piece.clone()))
        else:
            renamed.append((f"{stem}.blocks.{index}.{_INNER.get(rest, rest)}.{kind}", weight))
    return renamed
