"""Small systems of every family: data that shows its truth, a recipe of a few steps, a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compress import pipeline
from compress.evaluate import Answers, torch_asked
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
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "upernet": {"backbone_config": SWIN, "hidden_size": 32},
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
