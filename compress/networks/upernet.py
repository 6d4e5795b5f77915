"""UPerNet (Xiao et al., ECCV 2018, arXiv:1807.10221) on Swin, as transformers implements it.

Pruned: everything that Swin prunes as a classifier, and the convolutions of 1x1 in the decode
head. Quantised but dense: the convolutions of 3x3, and the classifier, which holds one row a
class. The auxiliary head serves training from scratch alone and is dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from compress.criteria.segment import OneClassAPixel
from compress.errors import CheckpointError
from compress.networks import checkpoint as checkpoints
from compress.networks import swin_backbone
from compress.networks.architecture import building, part_of, refuse_unknown
from compress.networks.network import Family, Layer
from compress.networks.roles import HEAD_REASON, WINDOW_REASON
from compress.networks.segmenter import Segmenter

_CLASSES: dict[str, type[PreTrainedModel]] = {"upernet": UperNetForSemanticSegmentation}
_HEAD = {"conv_seg": "classifier", "bn": "batch_norm"}
_AUXILIARY = "auxiliary_head."


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained UPerNet.

    Args:
        architecture: Keyword arguments of ``transformers.UperNetConfig``; ``backbone_config``
            holds those of ``transformers.SwinConfig``.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    settings = dict(architecture)
    backbone = part_of(settings, "backbone_config")
    refuse_unknown(settings, UperNetConfig())
    refuse_unknown(backbone, SwinConfig())
    with building():
        return _body(settings, backbone)


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a UPerNet; see :func:`compress.networks.checkpoint.load`.

    Weights are in the layout of transformers, of mmsegmentation, or of the Swin authors'
    repository for segmentation. In the last two ``config.json`` may give ``pool_scales``.

    Raises:
        CheckpointError: As there, or a backbone that is no Swin.
    """
    body: Any = checkpoints.load(checkpoint, classes, _CLASSES, _from_openmmlab)
    kind = body.config.backbone_config.model_type
    if kind != "swin":
        raise CheckpointError(f"{checkpoint} has a backbone of type {kind!r}; expected 'swin'")
    body.auxiliary_head = None
    body.config.use_auxiliary_head = False
    swin_backbone.drop_last_norm(body.backbone)
    loaded: nn.Module = body
    return loaded


def layers(body: Any) -> list[Layer]:
    """Name every Linear and Conv2d in the order in which they run, and say what is done to it."""
    head = body.decode_head
    sides, scales = range(len(head.lateral_convs)), range(len(head.pool_scales))
    names = [
        *(f"lateral_convs.{side}.conv" for side in sides),
        *(f"psp_modules.{scale}.1.conv" for scale in scales),
        "bottleneck.conv",
        *(f"fpn_convs.{side}.conv" for side in sides),
        "fpn_bottleneck.conv",
        "classifier",
    ]
    return [
        *swin_backbone.layers(body.backbone, "backbone"),
        *(_convolution(body, f"decode_head.{name}") for name in names),
    ]


def blocks(body: Any) -> list[str]:
    """Name Swin's Transformer blocks, then what fuses pooled maps and what fuses all stages."""
    fused = ["decode_head.bottleneck", "decode_head.fpn_bottleneck"]
    return [*swin_backbone.blocks(body.backbone, "backbone"), *fused]


FAMILY = Family(
    build=build,
    load=load,
    layers=layers,
    blocks=blocks,
    wrap=Segmenter,
    criterion=OneClassAPixel(),
)


def _body(settings: dict[str, Any], backbone: dict[str, Any]) -> PreTrainedModel:
    stages = [f"stage{stage + 1}" for stage in range(len(SwinConfig(**backbone).depths))]
    inner = SwinConfig(**{"out_features": stages, **backbone})
    config = UperNetConfig(**{**settings, "backbone_config": inner, "use_auxiliary_head": False})
    body = UperNetForSemanticSegmentation(config)
    swin_backbone.drop_last_norm(body.backbone)
    return body


def _convolution(body: nn.Module, name: str) -> Layer:
    if name.endswith("classifier"):
        return Layer(name, "head", name, prune=False, reason=HEAD_REASON)
    wide = body.get_submodule(name).kernel_size != (1, 1)
    reason = WINDOW_REASON if wide else ""
    return Layer(name, "convolution", name, prune=not wide, reason=reason)


def _from_openmmlab(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    state = checkpoints.read_state(folder)
    stem = "backbone."
    inner = {
        key.removeprefix(stem): weight for key, weight in state.items() if key.startswith(stem)
    }
    head = state.get("decode_head.conv_seg.weight")
    if head is None:
        raise CheckpointError("not a UPerNet checkpoint: it lacks 'decode_head.conv_seg.weight'")
    settings = {
        "hidden_size": head.shape[1],
        "num_labels": head.shape[0],
        "pool_scales": config.get("pool_scales", (1, 2, 3, 6)),
    }
    body = _body(settings, swin_backbone.architecture_of(inner, config))
    renamed = {f"{stem}{key}": weight for key, weight in swin_backbone.to_transformers(inner)}
    for key, weight in state.items():
        if not key.startswith((stem, _AUXILIARY)):
            renamed[".".join(_HEAD.get(part, part) for part in key.split("."))] = weight
    counters = _counters(body)
    checkpoints.fill(body, {**counters, **renamed}.items(), folder, "a UPerNet of mmsegmentation")
    return body


def _counters(body: nn.Module) -> dict[str, Tensor]:
    """Return how often each norm was trained, which some files leave out and nothing reads."""
    state = body.state_dict()
    return {key: count for key, count in state.items() if key.endswith("num_batches_tracked")}
