"""What is in a region, where its box really is, and which of its points belong to it.

Source: He et al., ICCV 2017, arXiv:1703.06870, figure 4; Cai and Vasconcelos, CVPR 2018,
arXiv:1712.00726, for class-agnostic boxes; four convolutions and one layer with batch norms as
the detectors of Liu et al., ICCV 2021, arXiv:2103.14030, were trained.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from compress.networks.regions.config import RegionConfig

# Sides of what heads read, and of the masks.
BOX_SIDE = 7
MASK_INPUT_SIDE = 14
MASK_SIDE = 28


class BoxHead(nn.Module):
    """Classifies regions and moves their boxes.

    Args:
        config: Says how many layers, and of which width.
    """

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        width = config.channels
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(width, width, 3, padding=1, bias=not config.box_norm)
                for _ in range(config.box_convs)
            ]
        )
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(width) if config.box_norm else nn.Identity() for _ in self.convs]
        )
        inputs = [width * BOX_SIDE**2, *[config.hidden] * (config.box_linears - 1)]
        self.linears = nn.ModuleList([nn.Linear(count, config.hidden) for count in inputs])
        self.classes = nn.Linear(config.hidden, config.num_labels + 1)
        self.moved_classes = 1 if config.class_agnostic else config.num_labels
        self.offsets = nn.Linear(config.hidden, 4 * self.moved_classes)
        for linear in self.linears:
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.001)
        for layer in (*self.linears, self.classes, self.offsets):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Judge regions.

        Args:
            features: [b * n, channels, 7, 7].
            batch: b.

        Returns:
            Logits [b, n, classes + 1], the background last, and offsets [b, n, classes or 1, 4].
        """
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = F.relu(norm(conv(features)))
        hidden = features.flatten(1)
        for linear in self.linears:
            hidden = F.relu(linear(hidden))
        logits, offsets = self.classes(hidden), self.offsets(hidden)
        return (
            logits.reshape(batch, -1, logits.shape[-1]),
            offsets.reshape(batch, -1, self.moved_classes, 4),
        )


class MaskHead(nn.Module):
    """Draws the mask of each class into regions.

    Args:
        config: Says how many layers, and of which width.
    """

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        width = config.channels
        self.convs = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1) for _ in range(config.mask_convs)]
        )
        self.enlarge = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.classes = nn.Conv2d(width, config.num_labels, 1)
        for layer in (*self.convs, self.enlarge, self.classes):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Draw masks.

        Args:
            features: [b * n, channels, 14, 14].
            labels: [b, n], the class of each region.

        Returns:
            Logits [b, n, 28, 28] of that class.
        """
        for conv in self.convs:
            features = F.relu(conv(features))
        drawn: Tensor = self.classes(F.relu(self.enlarge(features)))
        index = labels.reshape(-1, 1, 1, 1).expand(-1, 1, MASK_SIDE, MASK_SIDE)
        return drawn.gather(1, index).reshape(*labels.shape, MASK_SIDE, MASK_SIDE)
