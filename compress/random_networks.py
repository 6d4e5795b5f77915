"""Networks of the paper's Table 2 at real size with random weights, as bundles.

2:4 sparse in INT8, they run as fast as trained ones; they know nothing. They are written where
torch is, and carried to a machine that has a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress.calibrate import calibrate
from compress.export import write_bundle
from compress.networks import FAMILIES
from compress.networks.network import Classifier
from compress.plan import twin_answers
from compress.prune import magnitude_masks
from compress.quantize import insert_quantizers
from contract import labels
from contract.card import ModelCard, Precision
from contract.preprocess import Preprocessing

_INPUT: Final = Preprocessing(height=224, width=224, shorter_side_px=248)
_PICTURES: Final = 8
# Squares of colour along a side: pictures of noise all have the same answer.
_SQUARES: Final = 7
# Makes one class of a thousand likely now and then, so that answers can be compared.
_HEAD_GAIN: Final = 3.0


def _deit(hidden: int) -> tuple[str, dict[str, Any]]:
    return "deit", {
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }


def _swin(width: int, depth: int, heads: int) -> tuple[str, dict[str, Any]]:
    return "swin", {
        "embed_dim": width,
        "depths": [2, 2, depth, 2],
        "num_heads": [heads, 2 * heads, 4 * heads, 8 * heads],
    }


NETWORKS: Final = {
    "deit-tiny": _deit(192),
    "deit-small": _deit(384),
    "deit-base": _deit(768),
    "swin-tiny": _swin(96, 6, 3),
    "swin-small": _swin(96, 18, 3),
    "swin-base": _swin(128, 18, 4),
}


def write(name: str, folder: Path) -> Path:
    """Make one network, prune it 2:4, round it to INT8, and write it as a bundle.

    Args:
        name: One of :data:`NETWORKS`.
        folder: Of the bundle; replaced.
    """
    family, architecture = NETWORKS[name]
    network = _network(family, architecture)
    layers = FAMILIES[family].layers(network.body)
    pruned = [layer.name for layer in layers if layer.prune]
    magnitude_masks(network.body, pruned).apply(network.body)
    reads = {f"body.{layer.name}": f"body.{layer.reads}" for layer in layers}
    insert_quantizers(network, reads, learned=False)
    pictures = torch.from_numpy(_pictures())
    calibrate(network, [pictures], observer="max")
    card = ModelCard(
        task="classify",
        labels=labels.load("imagenet-1k"),
        preprocessing=_INPUT,
        precision=Precision("int8", "int8", "2:4"),
        provenance={"teacher": "none: random weights"},
        description="Random weights at real size, for timing alone.",
    )
    weights = [f"body.{layer}.weight" for layer in pruned]
    write_bundle(network.eval(), card, [pictures], weights, folder)
    twin_answers.record(folder)
    return folder


def _network(family: str, architecture: dict[str, Any]) -> Classifier:
    torch.manual_seed(0)
    body = FAMILIES[family].build({**architecture, "num_labels": len(labels.load("imagenet-1k"))})
    for name, module in body.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            gain = _HEAD_GAIN if "classifier" in name else 1.0
            # Signals keep their size from layer to layer.
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
    return Classifier(body, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()


def _pictures() -> npt.NDArray[np.uint8]:
    shape = (_PICTURES, _SQUARES, _SQUARES, 3)
    squares = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return squares.repeat(_INPUT.height // _SQUARES, 1).repeat(_INPUT.width // _SQUARES, 2)
