"""ResNet (He et al., CVPR 2016, arXiv:1512.03385) as the backbone of a detector.

Pruned: the convolutions of 1x1. Quantised but dense: the stem and the convolutions of 3x3. The
norms are frozen, and computed into the convolutions before them.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from compress.networks.network import Layer
from compress.networks.roles import WINDOW_REASON

_STEM = "embedder.embedder.convolution"
_STEM_REASON = "the stem stays dense: it reads three colours, and everything after it depends on it"
_CONVOLUTION = re.compile(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)")


def layers(backbone: Any, stem: str) -> list[Layer]:
    """Name every Conv2d of a backbone in the order in which they run.

    Args:
        backbone: A ``transformers.ResNetBackbone``.
        stem: Its path inside the body.
    """
    first = f"{stem}.{_STEM}"
    found = [Layer(first, "stem", first, prune=False, reason=_STEM_REASON)]
    for block in _blocks(backbone):
        module = backbone.get_submodule(block)
        # The first convolution and the shortcut read what the block reads.
        names = [f"layer.{index}.convolution" for index in range(len(module.layer))]
        for name in names:
            reads = block if name == names[0] else f"{block}.{name}"
            found.append(_layer(backbone, stem, f"{block}.{name}", reads))
        if not isinstance(module.shortcut, nn.Identity):
            found.append(_layer(backbone, stem, f"{block}.shortcut.convolution", block))
    return found


def drop_unread_stages(backbone: Any) -> None:
    """Leave out the stages behind the last one whose map a detector reads.

    Args:
        backbone: A ``transformers.ResNetBackbone``, changed in place.
    """
    # The stem is the first of the names.
    read = max(backbone.stage_names.index(name) for name in backbone.out_features)
    backbone.encoder.stages = backbone.encoder.stages[:read]


def architecture_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """Read the keyword arguments of ``transformers.ResNetConfig`` off torchvision's weights."""
    stages = range(1, 5)
    last = "conv3" if "layer1.0.conv3.weight" in state else "conv2"
    return {
        "embedding_size": state["conv1.weight"].shape[0],
        "hidden_sizes": [state[f"layer{stage}.0.{last}.weight"].shape[0] for stage in stages],
        "depths": [
            sum(key.startswith(f"layer{stage}.") and key.endswith(".conv1.weight") for key in state)
            for stage in stages
        ],
        "layer_type": "bottleneck" if last == "conv3" else "basic",
    }


def to_transformers(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Rename torchvision's weights to those of ``transformers.ResNetBackbone``.

    Args:
        state: Of the backbone alone, without the classifier.
    """
    renamed = []
    for key, weight in state.items():
        module, _, kind = key.rpartition(".")
        # Frozen norms do not count batches.
        if kind != "num_batches_tracked":
            renamed.append((f"{_renamed(module)}.{kind}", weight))
    return renamed


def _renamed(module: str) -> str:
    if module in {"conv1", "bn1"}:
        return "embedder.embedder." + ("convolution" if module == "conv1" else "normalization")
    if not (found := _CONVOLUTION.fullmatch(module)):
        return module
    stage, block, kind, index = found.groups()
    stem = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if kind == "downsample.":
        return f"{stem}.shortcut." + ("convolution" if index == "0" else "normalization")
    part = "convolution" if kind == "conv" else "normalization"
    return f"{stem}.layer.{int(index) - 1}.{part}"


def _blocks(backbone: Any) -> list[str]:
    return [
        f"encoder.stages.{stage}.layers.{index}"
        for stage, module in enumerate(backbone.encoder.stages)
        for index in range(len(module.layers))
    ]


def _layer(backbone: nn.Module, stem: str, name: str, reads: str) -> Layer:
    wide = backbone.get_submodule(name).kernel_size != (1, 1)
    reason = WINDOW_REASON if wide else ""
    return Layer(f"{stem}.{name}", "convolution", f"{stem}.{reads}", not wide, reason)
