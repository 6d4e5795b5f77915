"""What a detector of this kind is made of, as recipes and checkpoints write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import SwinConfig

from compress.errors import RecipeError
from compress.networks.architecture import building, part_of, refuse_unknown
from compress.networks.regions.offsets import Spread

# Of the feature maps, finest first; the last is every second place of the one before.
STRIDES_PX = (4, 8, 16, 32, 64)
POOLED_STRIDES_PX = STRIDES_PX[:4]
RATIOS = (0.5, 1.0, 2.0)
ANCHOR_SPREAD: Spread = (1.0, 1.0)
# Each stage of a cascade finds smaller errors than the one before (its paper, section 4.2).
STAGE_SPREADS: tuple[Spread, ...] = (
    (0.1, 0.2),
    (0.05, 0.1),
    (0.033, 0.067),
)
STAGE_OVERLAPS = (0.5, 0.6, 0.7)
# TensorRT's TopK takes no more.
_MOST_TOP = 3839


@dataclass(frozen=True)
class RegionConfig:
    """The architecture, and every number that a fixed-size graph needs.

    Args:
        backbone: Keyword arguments of ``transformers.SwinConfig``, of four stages.
        num_labels: Classes, without the background.
        image_size: Height and width of the input.
        channels: Of the feature pyramid and of the mask heads.
        stages: Box heads in a row: 1 is Mask R-CNN, 3 is Cascade Mask R-CNN.
        box_convs: 3x3 convolutions of a box head.
        box_linears: Fully connected layers of a box head after them.
        hidden: Their width.
        box_norm: Whether batch norms follow the box heads' convolutions.
        class_agnostic: Whether a box head moves boxes the same way for every class.
        mask_convs: 3x3 convolutions of a mask head.
        anchor_side: Side of the square anchors, in strides.
        pooled_side_px: Boxes from twice this side on are read from the second feature map.
        candidates: Best anchors of each feature map, and best pairs of region and class, among
            which overlapping ones are looked for.
        proposals: Regions that are classified.
        detections: Objects that are answered.
        proposal_overlap, detection_overlap: Intersection over union above which the worse of two
            boxes is left out.
        box_voting: Whether a box is the mean of those it suppresses, weighted by score.
        least_score: Objects below it are not answered.
        sweeps: Of non-maximum suppression; see there.
        sampled_anchors, sampled_regions, sampled_masks: Of each picture, for the losses.
    """

    backbone: Mapping[str, Any] = field(default_factory=dict)
    num_labels: int = 80
    image_size: tuple[int, int] = (800, 1216)
    channels: int = 256
    stages: int = 1
    box_convs: int = 0
    box_linears: int = 2
    hidden: int = 1024
    box_norm: bool = False
    class_agnostic: bool = False
    mask_convs: int = 4
    anchor_side: float = 8.0
    pooled_side_px: float = 56.0
    candidates: int = 1000
    proposals: int = 1000
    detections: int = 100
    proposal_overlap: float = 0.7
    detection_overlap: float = 0.5
    box_voting: bool = False
    least_score: float = 0.05
    sweeps: int = 21
    sampled_anchors: int = 256
    sampled_regions: int = 512
    sampled_masks: int = 128

    def swin(self) -> SwinConfig:
        """Return the backbone's configuration."""
        names = [f"stage{index + 1}" for index in range(len(POOLED_STRIDES_PX))]
        settings = {**self.backbone, "image_size": list(self.image_size), "out_features": names}
        return SwinConfig(**settings)

    def spreads(self) -> tuple[Spread, ...]:
        """Return what one unit of a stage's offsets is, for each stage."""
        return STAGE_SPREADS[: self.stages]

    def map_sizes(self) -> list[tuple[int, int]]:
        """Return height and width of each feature map, finest first."""
        height, width = (-(-side // STRIDES_PX[0]) for side in self.image_size)
        sizes = [(height, width)]
        while len(sizes) < len(STRIDES_PX):
            height, width = (height + 1) // 2, (width + 1) // 2
            sizes.append((height, width))
        return sizes

    def as_dict(self) -> dict[str, Any]:
        """Return what :func:`from_dict` takes."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        found["backbone"], found["image_size"] = dict(self.backbone), list(self.image_size)
        return found


def from_dict(settings: Mapping[str, Any]) -> RegionConfig:
    """Check keywords and make a configuration of them.

    Raises:
        RecipeError: An unknown keyword, or a value that makes no network.
    """
    known = {entry.name for entry in fields(RegionConfig)}
    if unknown := sorted(settings.keys() - known):
        raise RecipeError(f"network.architecture: Mask R-CNN has no {', '.join(unknown)}")
    given = dict(settings)
    backbone = part_of(given, "backbone")
    for name, value in given.items():
        if expected := _otherwise(name, value):
            raise RecipeError(f"network.architecture.{name}: expected {expected}, got {value!r}")
    size = given.pop("image_size", RegionConfig.image_size)
    height, width = (size, size) if isinstance(size, int) else size
    config = RegionConfig(backbone=backbone, image_size=(height, width), **given)
    _check_backbone(backbone)
    _check_numbers(config)
    return config


def _otherwise(name: str, value: Any) -> str:
    """Say what a keyword expects; empty where the value is that."""
    default = getattr(RegionConfig, name)
    if isinstance(default, tuple):
        sides = value if isinstance(value, list | tuple) else [value, value]
        whole = len(sides) == len(default) and all(_counts(side, 1) for side in sides)
        return "" if whole else "height and width, or one number for both"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and value >= 0 else "a number from 0 on"
    least = 0 if name == "box_convs" else 1
    return "" if _counts(value, least) else f"a whole number from {least} on"


def _counts(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_backbone(keywords: dict[str, Any]) -> None:
    refuse_unknown(keywords, SwinConfig())
    if "image_size" in keywords:
        raise RecipeError(
            "network.architecture.backbone: expected no image_size, which belongs beside backbone"
        )
    with building():
        swin = SwinConfig(**keywords)
    if len(swin.depths) != len(POOLED_STRIDES_PX) or swin.patch_size != STRIDES_PX[0]:
        raise RecipeError(
            "network.architecture.backbone: expected 4 stages and patch_size 4, got "
            f"{len(swin.depths)} and {swin.patch_size}"
        )


def _check_numbers(config: RegionConfig) -> None:
    if config.stages > len(STAGE_SPREADS):
        raise RecipeError(f"network.architecture.stages: expected 1 to 3, got {config.stages}")
    if config.sweeps % 2 == 0:
        raise RecipeError(
            f"network.architecture.sweeps: expected an odd number, got {config.sweeps}: after an "
            "even one boxes remain that better ones suppress"
        )
    for name in ("candidates", "proposals", "detections"):
        if getattr(config, name) > _MOST_TOP:
            raise RecipeError(
                f"network.architecture.{name}: expected 1 to {_MOST_TOP}, the most that TensorRT's "
                f"TopK takes, got {getattr(config, name)}"
            )
    if config.detections > config.candidates:
        raise RecipeError(
            f"network.architecture: {config.detections} detections cannot be chosen among "
            f"{config.candidates} candidates"
        )
