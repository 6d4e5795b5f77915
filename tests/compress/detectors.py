"""Small DETRs, and their weights as the authors of the networks name them."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RESNET: dict[str, Any] = {
    "depths": [1, 2, 1, 1],
    "hidden_sizes": [16, 16, 32, 32],
    "embedding_size": 8,
}


def write(folder: Path, state: dict[str, Tensor], **config: Any) -> str:
    folder.mkdir()
    torch.save({"model": state}, folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet of transformers to torchvision's names, one rule a kind of layer."""
    rules = [
        (r"embedder\.embedder\.convolution", "conv1"),
        (r"embedder\.embedder\.normalization", "bn1"),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d)\.shortcut\.convolution",
            "layer{0}.{1}.downsample.0",
        ),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d)\.shortcut\.normalization",
            "layer{0}.{1}.downsample.1",
        ),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d)\.layer\.(\d)\.convolution",
            "layer{0}.{1}.conv{2}",
        ),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d)\.layer\.(\d)\.normalization",
            "layer{0}.{1}.bn{2}",
        ),
    ]
    renamed = {}
    for key, weight in state.items():
        module, _, kind = key.rpartition(".")
        for pattern, form in rules:
            if found := re.fullmatch(pattern, module):
                numbers = list(map(int, found.groups()))
                # Stages and convolutions begin at one there, blocks at zero.
                places = [number + (index != 1) for index, number in enumerate(numbers)]
                renamed[f"{form.format(*places)}.{kind}"] = weight
    assert len(renamed) == len(state)
    return renamed


def fused(state: dict[str, Tensor], stem: str) -> dict[str, Tensor]:
    """Return one attention as torch's own names it, with one weight for query, key and value."""
    return {
        **{
            f"in_proj_{kind}": torch.cat([state[f"{stem}.{part}_proj.{kind}"] for part in "qkv"])
            for kind in ("weight", "bias")
        },
        **{f"out_proj.{kind}": state[f"{stem}.o_proj.{kind}"] for kind in ("weight", "bias")},
    }


def part(state: dict[str, Tensor], stem: str) -> dict[str, Tensor]:
    """Return what lies below a stem."""
    return {
        key[len(stem) + 1 :]: weight for key, weight in state.items() if key.startswith(f"{stem}.")
    }


def joined(stem: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{stem}.{key}": weight.clone() for key, weight in state.items()}


def detect(body: nn.Module, side_px: int = 64) -> dict[str, Tensor]:
    """Return what a body of transformers says of two pictures."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        found = body.eval()(pixel_values=torch.randn(2, 3, side_px, side_px, generator=generator))
    return {"logits": found.logits, "boxes": found.pred_boxes}


def assert_equal(came: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected["logits"].std() > 0.05
    for name in ("logits", "boxes"):
        torch.testing.assert_close(came[name], expected[name], rtol=0, atol=1e-5)
