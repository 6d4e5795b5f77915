"""Swin as the backbone of a network for detection or segmentation.

Pruned as in classification: query, key, value, the projection after attention, both FFN layers,
patch merging and the patch embedding. Read from the layouts of OpenMMLab and of the Swin authors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from compress.networks import roles, swin
from compress.networks.network import Layer

# OpenMMLab's names, to those of the Swin authors.
_AUTHORS = {
    "stages.": "layers.",
    ".attn.w_msa.": ".attn.",
    ".ffn.layers.0.0.": ".mlp.fc1.",
    ".ffn.layers.1.": ".mlp.fc2.",
    "patch_embed.projection.": "patch_embed.proj.",
}


def layers(backbone: nn.Module, stem: str) -> list[Layer]:
    """Name every Linear and Conv2d of a backbone, in the order in which they run.

    Args:
        backbone: A ``transformers.SwinBackbone``.
        stem: Its path inside the body.
    """
    return [
        replace(layer, name=f"{stem}.{layer.name}", reads=f"{stem}.{layer.reads}")
        for layer in roles.layers(backbone)
    ]


def blocks(backbone: nn.Module, stem: str) -> list[str]:
    """Name the Transformer blocks of a backbone, first to last; see :func:`layers`."""
    return [f"{stem}.{name}" for name in swin.blocks(backbone)]


def drop_last_norm(backbone: Any) -> None:
    """Take away the norm after the last stage, whose output no backbone gives out."""
    backbone.swin.layernorm = nn.Identity()


def architecture_of(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """Read the keyword arguments of ``SwinConfig`` off the weights themselves.

    Args:
        state: Of the backbone alone, in OpenMMLab's layout or in that of the Swin authors.
        config: What the folder's config says beside them.

    Raises:
        CheckpointError: A weight that every Swin has is missing.
    """
    shape = swin.architecture_of(_as_authors(state), config)
    given_out = [
        f"stage{stage + 1}"
        for stage in range(len(shape["depths"]))
        if f"norm{stage}.weight" in state
    ]
    return {**shape, "out_features": given_out}


def to_transformers(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Rename the weights of a backbone to those of ``transformers.SwinBackbone``.

    Args:
        state: As :func:`architecture_of` takes it.
    """
    norms, others = {}, {}
    for key, weight in _as_authors(state).items():
        module, _, kind = key.rpartition(".")
        stage = module.removeprefix("norm")
        if module.startswith("norm") and stage.isdecimal():
            norms[f"hidden_states_norms.stage{int(stage) + 1}.{kind}"] = weight
        else:
            others[key] = weight
    return [*swin.to_transformers(others), *norms.items()]


def _as_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename OpenMMLab's weights to those of the Swin authors; theirs pass unchanged."""
    unfolded = any(key.startswith("stages.") for key in state)
    renamed = {}
    for key, weight in state.items():
        name = key
        for theirs, authors in _AUTHORS.items():
            name = name.replace(theirs, authors)
        merges = unfolded and ".downsample." in key
        renamed[name] = _by_neighbour(weight) if merges else weight
    return renamed


def _by_neighbour(weight: Tensor) -> Tensor:
    """Reorder what patch merging reads, from OpenMMLab's order to that of the Swin authors.

    Args:
        weight: [..., 4 * channels]. OpenMMLab merges by ``nn.Unfold``, which lays the four
            neighbours of a channel side by side, row by row. The authors lay the channels of a
            neighbour side by side, the neighbours column by column.
    """
    by_channel = weight.reshape(*weight.shape[:-1], -1, 2, 2)
    return by_channel.transpose(-1, -3).flatten(-3)
