"""The mixed knowledge distillation of GPUSQ-ViT, for both stages.

``L = alpha * hard + beta * soft + gamma * feature``: the label, the teacher's logits, and the
teacher's late feature maps on samples where both predict the same.

Source: Yu et al., CVPR 2023, arXiv:2305.10727. docs/method.md says what is known of its loss, from
where, and what is taken where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.criteria.criterion import Criterion, Raw, as_float
from compress.networks.network import Network, captured_outputs
from compress.parallel import Processes


def feature_loss(
    student_map: Tensor, teacher_map: Tensor, counted: Tensor, total: Tensor | None = None
) -> Tensor:
    """Compare two feature maps on some of their samples.

    Maps are standardised over the channels of each token, so that the loss does not depend on
    the network's width or on how the activations are scaled.

    Args:
        student_map: [b, ..., channels].
        teacher_map: The same shape.
        counted: [b], how much each sample counts, 0 to 1.
        total: To divide by, where other processes hold a part of the batch; the sum of
            ``counted``, at least 1, if not given.

    Returns:
        Scalar; zero when no sample is counted.
    """
    student, teacher = _standardized(student_map), _standardized(teacher_map)
    distances = (student - teacher).square().flatten(1).mean(dim=1)
    if total is None:
        total = counted.sum().clamp(min=1)
    return (distances * counted).sum() / total


def layer_weights(
    stage_one_losses: Mapping[str, float],
    reading: Literal["inverse", "softmax", "uniform", "direct"],
) -> dict[str, float]:
    """Weight each layer's stage-2 feature term by its stage-1 loss. The mean is 1.

    "inverse" and "softmax" (of the negative loss) give a layer that stage 1 matched badly a
    smaller weight, "direct" a larger one.

    >>> layer_weights({"early": 0.5, "late": 1.5}, "inverse")
    {'early': 1.5, 'late': 0.5}
    """
    raw = {name: _READINGS[reading](loss) for name, loss in stage_one_losses.items()}
    mean = sum(raw.values()) / max(1, len(raw))
    return {name: weight / mean for name, weight in raw.items()}


_READINGS: dict[str, Callable[[float], float]] = {
    "inverse": lambda loss: 1 / max(loss, 1e-8),
    "softmax": lambda loss: math.exp(-loss),
    "uniform": lambda _loss: 1.0,
    "direct": lambda loss: max(loss, 1e-8),
}


@dataclass(frozen=True)
class Losses:
    """The terms of one step, unweighted, and their weighted sum.

    Args:
        total: What to differentiate.
        terms: Detached scalars by name, for the record.
        layers: Detached feature loss of each compared layer.
    """

    total: Tensor
    terms: dict[str, Tensor]
    layers: dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """How the terms are put together; see compress.recipe.Distill for their meaning."""

    hard: float
    soft: float
    feature: float
    temperature: float
    agree_only: bool
    layers: Mapping[str, float]


class MixedDistillation:
    """The loss of one stage: runs teacher and student and compares them.

    Args:
        teacher: Frozen and in evaluation mode from here on.
        student: To train.
        weights: Of the terms; its ``layers`` names the modules that are compared.
        criterion: Compares what the two give.
        processes: That hold a part of each batch.
    """

    def __init__(
        self,
        teacher: Network,
        student: Network,
        weights: Weights,
        criterion: Criterion,
        processes: Processes | None = None,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        self.weights = weights
        self.criterion = criterion
        self.processes = processes or Processes()

    def __call__(
        self, images: Tensor, targets: Raw | None, forward: nn.Module | None = None
    ) -> Losses:
        """Compare the two networks on one batch.

        Args:
            images: [b, h, w, 3].
            targets: As the criterion takes them; None takes the teacher's predictions.
            forward: What to call in the student's place, such as its wrapper that averages
                gradients over processes.
        """
        compared = list(self.weights.layers) if self.weights.feature else []
        with captured_outputs(self.teacher, compared) as teacher_maps, torch.no_grad():
            taught = as_float(self.teacher(images))
        labels = self.criterion.predicted(taught) if targets is None else targets
        with captured_outputs(self.student, compared) as student_maps:
            came = as_float((forward or self.student)(images, self.teacher.hint(taught, labels)))
        counted = self.criterion.agreement(came, taught).detach()
        if not self.weights.agree_only:
            counted = torch.ones_like(counted)
        # The mean over all processes' samples, once gradients are averaged over processes.
        count = self.processes.mean(counted.sum()).clamp(min=1 / self.processes.count)
        layers = {
            name: feature_loss(student_maps[name], teacher_maps[name], counted, count)
            for name in compared
        }
        soft = self.criterion.soft(came, taught, self.weights.temperature)
        terms = {
            "hard": self.criterion.hard(came, labels),
            "soft": soft,
            "feature": self._feature_term(layers, soft),
        }
        total = sum(
            (getattr(self.weights, name) * term for name, term in terms.items()),
            start=soft.new_zeros(()),
        )
        return Losses(total, _detached(terms), _detached(layers))

    def _feature_term(self, layers: dict[str, Tensor], like: Tensor) -> Tensor:
        weighted = [self.weights.layers[name] * loss for name, loss in layers.items()]
        return torch.stack(weighted).mean() if weighted else like.new_zeros(())


def _standardized(features: Tensor) -> Tensor:
    return F.layer_norm(features.float(), features.shape[-1:])


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}
