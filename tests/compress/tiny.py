"""Real networks of a few thousand weights, and pictures and recipes that fit them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from compress.networks import deit
from compress.networks.network import Classifier, Layer
from compress.recipe import Recipe

SIDE_PX = 8
CLASSES = ("red", "green", "blue")
ARCHITECTURE: dict[str, Any] = {
    "image_size": SIDE_PX,
    "patch_size": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    # The default of 0.02 gives every picture the same answer.
    "initializer_range": 0.3,
}
SCHEDULE: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}


class OtherwiseWhenExported(Classifier):
    """A network whose graph gives every picture the classes in the opposite order."""

    def answer(self, raw: Tensor) -> dict[str, Tensor]:
        scores = super().answer(raw)["scores"]
        return {"scores": scores.flip(1) if torch.compiler.is_exporting() else scores}


def body(*, classes: int = len(CLASSES), seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    built = deit.build({**ARCHITECTURE, "num_labels": classes, **changes})
    return _shaken(built).eval()


def distilled_body(*, classes: int = len(CLASSES), seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    config = DeiTConfig(**{**ARCHITECTURE, "num_labels": classes, **changes})
    return _shaken(DeiTForImageClassificationWithTeacher(config)).eval()


def network(*, classes: int = len(CLASSES), seed: int = 0, **changes: Any) -> Classifier:
    half = (0.5, 0.5, 0.5)
    return Classifier(body(classes=classes, seed=seed, **changes), half, half).eval()


def layers(network: Classifier) -> list[Layer]:
    """Name the layers as the pipeline does, from the whole network."""
    return [
        Layer(f"body.{layer.name}", layer.role, f"body.{layer.reads}", layer.prune, layer.reason)
        for layer in deit.layers(network.body)
    ]


def pruned_names(network: Classifier) -> list[str]:
    return [layer.name for layer in layers(network) if layer.prune]


def pictures(count: int, seed: int = 0, side_px: int = SIDE_PX) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, side_px, side_px, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def write_pictures(root: Path, each: int = 4, side_px: int = 10) -> Path:
    """Write ``each`` noisy pictures of each class's colour, one folder a class."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            pixels = rng.integers(0, 100, (side_px, side_px, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / name / f"{index:02}.png")
    return root


def plain_recipe(folder: Path) -> dict[str, Any]:
    """Return a recipe as YAML would give it, with everything below ``folder``."""
    return copy.deepcopy(
        {
            "name": "tiny",
            "run": str(folder / "run"),
            "threads": 1,
            "network": {"architecture": ARCHITECTURE, "mean": [0.5] * 3, "std": [0.5] * 3},
            "input": {"height": SIDE_PX, "width": SIDE_PX, "shorter_side_px": SIDE_PX},
            "data": {
                "train": str(folder / "train"),
                "evaluate": {"held out": str(folder / "test")},
                "labels": list(CLASSES),
            },
            "teacher": SCHEDULE,
            "distill": {"feature_layers": 1},
            "prune": {"schedule": SCHEDULE},
            "quantize": {"schedule": SCHEDULE},
            "publish": {"repository": str(folder / "repository")},
        }
    )


def changed(plain: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the recipe with the value at a dotted path replaced."""
    result = copy.deepcopy(plain)
    *parents, last = path.split(".")
    part = result
    for name in parents:
        part = part.setdefault(name, {})
    part[last] = value
    return result


def recipe(folder: Path, **changes: Any) -> Recipe:
    """Build a checked recipe; changes are dotted paths with ``__`` for the dot."""
    plain = plain_recipe(folder)
    for path, value in changes.items():
        plain = changed(plain, path.replace("__", "."), value)
    return Recipe.model_validate(plain)


def _shaken(body: nn.Module) -> nn.Module:
    # Norms and biases begin at one and zero, which would hide that two were swapped.
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return body
