"""Checkpoints of Mask R-CNN and Cascade Mask R-CNN on Swin, in the layouts they are published in.

Both are mmdetection's heads: with the Swin authors' backbone, and with OpenMMLab's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.errors import CheckpointError
from compress.networks import swin_backbone
from compress.networks.checkpoint import count

# All but the backbone, to ours. Heads of a cascade have a number, the head of a single stage none.
_OTHERS = {
    r"^neck\.lateral_convs\.(\d+)\.conv\.": r"neck.laterals.\1.",
    r"^neck\.fpn_convs\.(\d+)\.conv\.": r"neck.outputs.\1.",
    r"^rpn_head\.rpn_conv\.": "rpn.conv.",
    r"^rpn_head\.rpn_cls\.": "rpn.objectness.",
    r"^rpn_head\.rpn_reg\.": "rpn.offsets.",
    r"^roi_head\.(bbox|mask)_head\.(?!\d)": r"roi_head.\1_head.0.",
    r"^roi_head\.bbox_head\.": "box_heads.",
    r"^roi_head\.mask_head\.": "mask_heads.",
    r"^(\w+_heads\.\d+)\.(?:shared_)?convs\.(\d+)\.conv\.": r"\1.convs.\2.",
    r"^(box_heads\.\d+)\.shared_convs\.(\d+)\.bn\.": r"\1.norms.\2.",
    r"^(box_heads\.\d+)\.shared_fcs\.": r"\1.linears.",
    r"^(box_heads\.\d+)\.fc_cls\.": r"\1.classes.",
    r"^(box_heads\.\d+)\.fc_reg\.": r"\1.offsets.",
    r"^(mask_heads\.\d+)\.upsample\.": r"\1.enlarge.",
    r"^(mask_heads\.\d+)\.conv_logits\.": r"\1.classes.",
}
_PREFIX = "backbone."


def from_published(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint of either layout.

    Returns:
        The keywords that its shapes tell, and its weights by our own names.

    Raises:
        CheckpointError: It lacks what a Mask R-CNN on Swin has.
    """
    inner = {key.removeprefix(_PREFIX): state[key] for key in state if _within(key)}
    named = {_renamed(key): weight for key, weight in state.items() if not _within(key)}
    backbone = swin_backbone.architecture_of(inner, {})
    # Of the whole network, and always all four stages.
    del backbone["image_size"], backbone["out_features"]
    shape = {"backbone": backbone, **_shape(named)}
    named |= {f"{_PREFIX}{key}": weight for key, weight in swin_backbone.to_transformers(inner)}
    return shape, named


def _within(key: str) -> bool:
    return key.startswith(_PREFIX)


def _renamed(key: str) -> str:
    for pattern, ours in _OTHERS.items():
        key = re.sub(pattern, ours, key)
    return key


def _shape(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off the weights, by our own names, what follows the backbone."""
    try:
        classes = named["box_heads.0.classes.weight"]
        moved = named["box_heads.0.offsets.weight"]
        lateral = named["neck.laterals.0.weight"]
    except KeyError as error:
        raise CheckpointError(f"not a Mask R-CNN checkpoint: it lacks {error}") from error
    labels = classes.shape[0] - 1
    return {
        "num_labels": labels,
        "channels": lateral.shape[0],
        "stages": count(named, "box_heads."),
        "box_convs": count(named, "box_heads.0.convs."),
        "box_linears": count(named, "box_heads.0.linears."),
        "hidden": classes.shape[1],
        "box_norm": "box_heads.0.norms.0.weight" in named,
        "class_agnostic": moved.shape[0] == 4 and labels > 1,
        "mask_convs": count(named, "mask_heads.0.convs."),
    }
