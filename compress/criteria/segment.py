"""Semantic segmentation: one class a pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compress.data.pictures import IGNORED


class OneClassAPixel:
    """Compares [b, k, h, w] logits; labels are [b, h, w] class indices, 255 where there is none."""

    def hard(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, averaged over the labelled pixels; zero if there are none."""
        losses = F.cross_entropy(outputs, targets.long(), ignore_index=IGNORED, reduction="none")
        return losses.sum() / (targets != IGNORED).sum().clamp(min=1)

    def soft(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return ``KL(teacher || student)`` over the classes, averaged over pixels."""
        ours = F.log_softmax(student / temperature, dim=1)
        theirs = F.log_softmax(teacher / temperature, dim=1)
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1).mean()
        # As in classification.
        return divergence * temperature**2

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the share of each picture's pixels that both give the same class."""
        return (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean(dim=(1, 2))

    def predicted(self, teacher: Tensor) -> Tensor:
        """Return the best class of each pixel."""
        return teacher.argmax(dim=1)
