"""Checkpoints of the authors of DETR and of Deformable DETR, renamed to transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.errors import CheckpointError
from compress.networks import resnet_backbone
from compress.networks.checkpoint import count

_LAYER = re.compile(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.([a-z_]+)")
_BACKBONE = "backbone.0.body."
_FUSED = ("in_proj_weight", "in_proj_bias")
_PARTS = {"linear1": "mlp.fc1", "linear2": "mlp.fc2"}


def backbone_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the ResNet alone, as torchvision names them.

    Raises:
        CheckpointError: There is none.
    """
    found = {
        key.removeprefix(_BACKBONE): weight
        for key, weight in state.items()
        if key.startswith(_BACKBONE)
    }
    if "conv1.weight" not in found:
        raise CheckpointError(f"not a checkpoint of DETR: it lacks '{_BACKBONE}conv1.weight'")
    return found


def sizes_of(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Read what both configurations share off the weights; heads are not in them.

    Raises:
        CheckpointError: A weight that both networks have is missing.
    """
    heads = config.get("nheads", 8)
    try:
        return {
            "d_model": state["transformer.encoder.layers.0.norm1.weight"].shape[0],
            "encoder_layers": count(state, "transformer.encoder.layers."),
            "decoder_layers": count(state, "transformer.decoder.layers."),
            "encoder_ffn_dim": state["transformer.encoder.layers.0.linear1.weight"].shape[0],
            "decoder_ffn_dim": state["transformer.decoder.layers.0.linear1.weight"].shape[0],
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "backbone_config": resnet_backbone.architecture_of(backbone_of(state)),
        }
    except KeyError as error:
        raise CheckpointError(f"not a checkpoint of DETR: it lacks {error}") from error


def to_transformers(
    state: Mapping[str, Tensor], outer: Mapping[str, str], norms: Mapping[str, Mapping[str, str]]
) -> dict[str, Tensor]:
    """Rename all weights.

    Args:
        state: As the authors name them.
        outer: Names of modules outside of the layers, or beginnings of them.
        norms: By "encoder" and "decoder": names of what the authors number, and of what they call
            attention.
    """
    renamed = {
        f"model.backbone.model.{key}": weight
        for key, weight in resnet_backbone.to_transformers(backbone_of(state))
    }
    for key, weight in state.items():
        if key.startswith(_BACKBONE):
            continue
        if found := _LAYER.fullmatch(key):
            half, index, module, kind = found.groups()
            stem = f"model.{half}.layers.{index}"
            renamed.update(_inside(stem, module, kind, weight, norms[half]))
        else:
            renamed[_outside(key, outer)] = weight
    return renamed


def _inside(
    stem: str, module: str, kind: str, weight: Tensor, norms: Mapping[str, str]
) -> dict[str, Tensor]:
    first, _, rest = module.partition(".")
    name = ".".join(filter(None, (norms.get(first, first), rest)))
    if kind in _FUSED:
        pieces = zip("qkv", weight.tensor_split(3), strict=True)
        plain = kind.removeprefix("in_proj_")
        return {f"{stem}.{name}.{part}_proj.{plain}": piece.clone() for part, piece in pieces}
    if rest == "out_proj":
        name = f"{norms.get(first, first)}.o_proj"
    return {f"{stem}.{_PARTS.get(name, name)}.{kind}": weight}


def _outside(key: str, outer: Mapping[str, str]) -> str:
    stem = next((name for name in outer if key == name or key.startswith(f"{name}.")), None)
    return key if stem is None else f"{outer[stem]}{key[len(stem) :]}"
