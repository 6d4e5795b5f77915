"""Small systems of every family: data that shows its truth, a recipe of a few steps, a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compress import pipeline
from compress.answers import Answers
from compress.evaluate import torch_asked
from compress.networks.network import Network
from compress.parallel import Processes
from compress.recipe import Recipe
from contract.preprocess import Preprocessing, decode, fit
from tests.compress import scenes

SIDE_PX = 64
SWIN: dict[str, Any] = {
    "image_size": SIDE_PX,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
REGIONS: dict[str, Any] = {
    "backbone": {name: value for name, value in SWIN.items() if name != "image_size"},
    "image_size": (SIDE_PX, SIDE_PX),
    "channels": 32,
    "hidden": 64,
    "mask_convs": 1,
    "anchor_side": 4.0,
    "pooled_side_px": 16.0,
    "candidates": 60,
    "proposals": 40,
    "detections": 10,
    "sweeps": 7,
    "box_voting": True,
    "sampled_anchors": 64,
    "sampled_regions": 32,
    "sampled_masks": 8,
}
RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "bottleneck",
}
QUERIES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 8,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "upernet": {"backbone_config": SWIN, "hidden_size": 32},
    "mask_rcnn": REGIONS,
    "cascade_mask_rcnn": REGIONS,
    "detr": {**QUERIES, "backbone_config": {**RESNET, "out_features": ["stage3"]}},
    "deformable_detr": {
        **QUERIES,
        "num_feature_levels": 2,
        "with_box_refine": True,
        "two_stage": True,
        "two_stage_num_proposals": 8,
        "backbone_config": {**RESNET, "out_features": ["stage2", "stage3"]},
    },
}
SIZES_PX = [(80, 60), (50, 70), (64, 64), (90, 45)] * 4


def write_scenes(folder: Path) -> dict[str, Any]:
    """Write scenes; return the recipe's data."""
    scenes.write_scenes(folder / "train", SIZES_PX)
    scenes.write_scenes(folder / "test", SIZES_PX[:5], seed=1)
    return {
        "train": str(folder / "train" / "images" / "training"),
        "evaluate": {"held out": str(folder / "test" / "images" / "training")},
    }


def write_objects(folder: Path) -> dict[str, Any]:
    """Write pictures of one to three rectangles; return the recipe's data."""
    for part, count, seed in (("train", 24, 0), ("test", 6, 1)):
        rng = np.random.default_rng(seed)
        pictures = [(size, _rectangles(size, rng)) for size in (SIZES_PX * 2)[:count]]
        root = scenes.write_objects(folder / part, pictures)
        (root / "annotations").mkdir()
        (root / "instances.json").rename(root / "annotations" / "instances_all.json")
    return {
        "train": str(folder / "train" / "annotations" / "instances_all.json"),
        "evaluate": {"held out": str(folder / "test" / "annotations" / "instances_all.json")},
    }


def _rectangles(size_px: tuple[int, int], rng: np.random.Generator) -> list[Any]:
    """Draw rectangles side by side, so that none hides another."""
    width, height = size_px
    count = int(rng.integers(1, 4))
    step = width // count
    found = []
    for place in range(count):
        wide = int(rng.integers(step // 2, step - 2))
        high = int(rng.integers(height // 3, height - 4))
        left = place * step + int(rng.integers(0, step - wide))
        found.append(
            (int(rng.integers(0, 3)), left, int(rng.integers(0, height - high)), wide, high)
        )
    return found


def recipe(folder: Path, family: str, task: str, data: dict[str, Any], **others: Any) -> Recipe:
    """Return the recipe of a small system that is trained from scratch."""
    schedule = {"epochs": 10, "batch_size": 8, "learning_rate": 3e-3}
    return Recipe.model_validate(
        {
            "name": family.replace("_", "-"),
            "task": task,
            "run": str(folder / "run"),
            "threads": 1,
            "network": {"family": family, "architecture": ARCHITECTURES[family]},
            "input": {"height": SIDE_PX, "width": SIDE_PX, "framing": "letterbox"},
            "data": {**data, "labels": list(scenes.CLASSES)},
            "teacher": schedule,
            "prune": {"schedule": {**schedule, "epochs": 3, "learning_rate": 1e-3}},
            "quantize": {"schedule": {**schedule, "epochs": 1, "learning_rate": 1e-4}},
            "publish": {"repository": str(folder / "repository")},
            "trackers": [],
            **others,
        }
    )


def quantized(made: Recipe) -> Network:
    """Return the torch network that a finished run exported."""
    return pipeline.networks(pipeline.prepare(made, Processes())).quantized.network


def answers(network: Network, picture: Path, preprocessing: Preprocessing) -> Answers:
    """Ask a torch network about a file."""
    pixels = np.stack([fit(decode(picture.read_bytes()), preprocessing)])
    return torch_asked(network)(pixels)
