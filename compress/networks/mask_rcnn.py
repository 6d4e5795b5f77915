"""Mask R-CNN and Cascade Mask R-CNN on Swin: boxes and instance masks from proposed regions.

Pruned: what is pruned in a Swin, the 1x1 convolutions of the feature pyramid and the fully
connected layers of the box heads. Quantised but dense: convolutions of 3x3, and the layers that
decide what is proposed, what it is, where its box is and which points it holds. Float: the
transposed convolution of the mask heads, whose sums run along the other axis of its weight, and
what is float in a Swin. docs/detection.md says how every step is of a fixed size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.criteria.regions import Regions
from compress.errors import CheckpointError, RecipeError
from compress.networks import checkpoint as checkpoints
from compress.networks import swin_backbone
from compress.networks.architecture import building
from compress.networks.network import Family, Layer
from compress.networks.region_detector import RegionDetector
from compress.networks.regions.body import RegionBody
from compress.networks.regions.config import RegionConfig, from_dict
from compress.networks.regions.layouts import from_published
from compress.networks.roles import WINDOW_REASON

_CASCADE = {"stages": 3, "class_agnostic": True}
_SHARED_REASON = (
    "runs once a feature map, and a mask is chosen by what a layer reads once; all regions come "
    "from it"
)
_DECIDES = "the layer stays dense: it decides {} and holds few weights"


def build(architecture: Mapping[str, Any]) -> RegionBody:
    """Build an untrained Mask R-CNN.

    Args:
        architecture: Keyword arguments of RegionConfig.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    return _built(from_dict(architecture))


def build_cascade(architecture: Mapping[str, Any]) -> RegionBody:
    """Build an untrained Cascade Mask R-CNN: three stages, and boxes for all classes together.

    Args:
        architecture: Keyword arguments of RegionConfig, which may say otherwise.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    return _built(from_dict({**_CASCADE, **architecture}))


def load(checkpoint: str, classes: int) -> RegionBody:
    """Load a detector from a folder with ``config.json`` and weights, in float32.

    The folder is one that ``save_pretrained`` of a body wrote, or holds weights in a layout that
    such detectors are published in. Then the config may name keywords that weights do not tell,
    such as ``image_size``; 800 x 1216 is taken where it does not.

    Args:
        checkpoint: The folder.
        classes: How many the labels name.

    Raises:
        CheckpointError: Nothing there, another architecture or number of classes, or keys that
            do not fit.
    """
    folder = Path(checkpoint)
    config = _read_config(folder)
    state = checkpoints.read_state(folder)
    if "backbone" not in config:
        shape, state = from_published(state)
        config = {**shape, **config}
    try:
        body = _built(from_dict(config))
    except RecipeError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    checkpoints.fill(body, state.items(), folder, "a Mask R-CNN on Swin")
    checkpoints.require_classes(body, checkpoint, classes)
    return body


def layers(body: Any) -> list[Layer]:
    """Name every Linear and Conv2d in the order in which they first run."""
    found = swin_backbone.layers(body.backbone, "backbone")
    names = range(len(body.neck.laterals))
    found += [_plain(f"neck.laterals.{index}", "pyramid lateral") for index in names]
    found += [_dense(f"neck.outputs.{index}", "pyramid output", WINDOW_REASON) for index in names]
    found.append(_dense("rpn.conv", "proposals", _SHARED_REASON))
    found.append(_head("rpn.objectness", "rpn answer", "what is looked at"))
    found.append(_head("rpn.offsets", "rpn answer", "which boxes are looked at"))
    for stage in range(body.config.stages):
        found += _box_head(f"box_heads.{stage}", body.config)
    for stage in range(body.config.stages):
        found += _mask_head(f"mask_heads.{stage}", body.config)
    return found


def blocks(body: Any) -> list[str]:
    """Name the Transformer blocks, first to last, and the maps of the pyramid."""
    maps = [f"neck.outputs.{index}" for index in range(len(body.neck.outputs))]
    return [*swin_backbone.blocks(body.backbone, "backbone"), *maps]


def _built(config: RegionConfig) -> RegionBody:
    with building():
        return RegionBody(config)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"expected a folder with config.json and weights at {folder}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"expected an object in {path}, got a {type(config).__name__}")
    return config


def _box_head(name: str, config: RegionConfig) -> list[Layer]:
    convs = range(config.box_convs)
    found = [_dense(f"{name}.convs.{index}", "box head", WINDOW_REASON) for index in convs]
    linears = range(config.box_linears)
    found += [_plain(f"{name}.linears.{index}", "box head") for index in linears]
    found.append(_head(f"{name}.classes", f"{name} answer", "what a region shows"))
    found.append(_head(f"{name}.offsets", f"{name} answer", "where a box is"))
    return found


def _mask_head(name: str, config: RegionConfig) -> list[Layer]:
    convs = range(config.mask_convs)
    found = [_dense(f"{name}.convs.{index}", "mask head", WINDOW_REASON) for index in convs]
    found.append(_head(f"{name}.classes", f"{name}.classes", "which points belong to an object"))
    return found


def _plain(name: str, role: str) -> Layer:
    return Layer(name, role, name)


def _dense(name: str, role: str, reason: str) -> Layer:
    return Layer(name, role, name, prune=False, reason=reason)


def _head(name: str, reads: str, decides: str) -> Layer:
    return Layer(name, "head", reads, prune=False, reason=_DECIDES.format(decides))


FAMILY = Family(
    build=build,
    load=load,
    layers=layers,
    blocks=blocks,
    wrap=RegionDetector,
    criterion=Regions(),
)
CASCADE_FAMILY = Family(
    build=build_cascade,
    load=load,
    layers=layers,
    blocks=blocks,
    wrap=RegionDetector,
    criterion=Regions(),
)
