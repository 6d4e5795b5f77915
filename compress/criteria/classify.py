"""Classification: one class a picture."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def hard_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of [b, k] logits against [b] class indices."""
    return F.cross_entropy(student_logits, labels)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``KL(teacher || student)`` of [b, k] logits, averaged over the batch."""
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    # Soft-target gradients shrink as 1/T^2; restore their weight against the hard loss.
    return divergence * temperature**2


class OneClass:
    """Compares [b, k] logits; labels are [b] class indices."""

    def hard(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See :func:`hard_loss`."""
        return hard_loss(outputs, targets)

    def soft(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """See :func:`soft_loss`."""
        return soft_loss(student, teacher, temperature)

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return 1 where both have the same best class."""
        return (student.argmax(dim=-1) == teacher.argmax(dim=-1)).float()

    def predicted(self, teacher: Tensor) -> Tensor:
        """Return the best class of each picture."""
        return teacher.argmax(dim=-1)
