"""Batch norms with fixed statistics, computed into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrFrozenBatchNorm2d,
)
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d
from transformers.models.resnet.modeling_resnet import ResNetConvLayer, ResNetShortCut
from transformers.models.upernet.modeling_upernet import UperNetConvModule

from compress.networks.regions.heads import BoxHead

_Norm: TypeAlias = "nn.BatchNorm2d | DetrFrozenBatchNorm2d | DeformableDetrFrozenBatchNorm2d"
_NORMS = (nn.BatchNorm2d, DetrFrozenBatchNorm2d, DeformableDetrFrozenBatchNorm2d)
# Modules that hand what a convolution returns to a norm, and to nothing else.
_PAIRS: dict[type[nn.Module], tuple[str, str]] = {
    ResNetConvLayer: ("convolution", "normalization"),
    ResNetShortCut: ("convolution", "normalization"),
    UperNetConvModule: ("conv", "batch_norm"),
}
# The frozen norms write it into their forward pass.
_FROZEN_EPS = 1e-5


def fold_batch_norms(network: nn.Module) -> list[str]:
    """Compute every batch norm into the convolution before it and put an Identity in its place.

    The network then computes what it computed in evaluation mode, also in training mode. A norm
    is folded where it is known to read what one convolution returns, and nothing else does: in
    the modules of transformers that pair the two, in box heads, and side by side in a
    ``nn.Sequential``.

    Args:
        network: Changed in place.

    Returns:
        The norms that are gone, by name.
    """
    folded = []
    for stem, parent in network.named_modules():
        for conv_name, norm_name in _pairs(parent):
            conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _NORMS):
                _fold(conv, norm)
                parent.set_submodule(norm_name, nn.Identity())
                folded.append(f"{stem}.{norm_name}".lstrip("."))
    return folded


def _pairs(parent: nn.Module) -> list[tuple[str, str]]:
    if isinstance(parent, nn.Sequential):
        return list(pairwise(name for name, _ in parent.named_children()))
    if isinstance(parent, BoxHead):
        return [(f"convs.{index}", f"norms.{index}") for index in range(len(parent.convs))]
    pair = _PAIRS.get(type(parent))
    return [pair] if pair else []


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: _Norm) -> None:
    eps = norm.eps if isinstance(norm, nn.BatchNorm2d) else _FROZEN_EPS
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("expected a batch norm with statistics, got one that takes each batch's")
    width = (variance + eps).rsqrt()
    scale: Tensor = width if norm.weight is None else norm.weight * width
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    before = 0.0 if conv.bias is None else conv.bias * scale
    conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
    conv.bias = nn.Parameter((shift + before).to(conv.weight.dtype))
