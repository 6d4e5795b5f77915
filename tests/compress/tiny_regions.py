"""A Mask R-CNN of a few thousand weights, and two pictures of rectangles to learn by heart."""

from typing import Any

import torch
from torch import Tensor

from compress.networks import mask_rcnn
from compress.networks.region_detector import RegionDetector

SIZE_PX = (64, 96)
BACKBONE: dict[str, Any] = {
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "drop_path_rate": 0.0,
}
ARCHITECTURE: dict[str, Any] = {
    "backbone": BACKBONE,
    "image_size": SIZE_PX,
    "num_labels": 2,
    "channels": 32,
    "hidden": 64,
    "mask_convs": 1,
    "anchor_side": 4.0,
    "pooled_side_px": 16.0,
    "candidates": 50,
    "proposals": 40,
    "detections": 10,
    "sweeps": 5,
    "sampled_anchors": 64,
    "sampled_regions": 32,
    "sampled_masks": 8,
}


def network(seed: int = 0, **changes: Any) -> RegionDetector:
    torch.manual_seed(seed)
    body = mask_rcnn.build({**ARCHITECTURE, **changes})
    return RegionDetector(body, (0.5,) * 3, (0.5,) * 3).eval()


def shaken(network: RegionDetector) -> RegionDetector:
    """Move every weight a little: norms and biases begin at one and zero, and hide a swap."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def answers(network: RegionDetector, images: Tensor) -> dict[str, Tensor]:
    return network.answer(network(images))


def rectangles() -> tuple[Tensor, dict[str, Tensor]]:
    """Return two pictures, of two objects and of one; masks cover the left half of each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (2, *SIZE_PX, 3), generator=generator).to(torch.uint8)
    boxes = torch.tensor(
        [[[6, 8, 30, 30], [56, 30, 90, 62]], [[30, 14, 70, 44], [0, 0, 0, 0]]], dtype=torch.float32
    )
    labels = torch.tensor([[0, 1], [1, -1]])
    masks = torch.zeros(2, 2, *SIZE_PX, dtype=torch.bool)
    for picture, place in ((0, 0), (0, 1), (1, 0)):
        left, top, right, bottom = boxes[picture, place].int().tolist()
        images[picture, top:bottom, left:right, labels[picture, place]] = 220
        masks[picture, place, top:bottom, left : (left + right) // 2] = True
    return images, {"boxes": boxes, "labels": labels, "masks": masks}


def train(network: RegionDetector, steps: int) -> list[float]:
    """Learn the rectangles; return the loss of each step."""
    images, targets = rectangles()
    criterion = mask_rcnn.FAMILY.criterion
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    network.train()
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = criterion.hard(network(images, network.hint(None, targets)), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses
