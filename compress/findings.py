"""What the report shows beside numbers: where networks disagree, and where rounding hurts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from compress.data.loading import at_once, ordered_batches
from compress.data.pictures import Pictures
from compress.networks.network import Layer, captured_outputs
from compress.thumbnail import address


@dataclass(frozen=True)
class Answer:
    """What one network says of a picture.

    Args:
        label: Of its best class.
        score: Probability of it.
        right: Whether that is the picture's class.
    """

    label: str
    score: float
    right: bool


@dataclass(frozen=True)
class Disagreement:
    """One picture on which two networks differ.

    Args:
        picture: As the networks see it, a ``data:`` address.
        label: The picture's class.
        teacher: What the dense network says.
        student: What the quantised network says.
    """

    picture: str
    label: str
    teacher: Answer
    student: Answer


@dataclass(frozen=True)
class Comparison:
    """How two networks answer the same pictures.

    Args:
        both: Pictures that both get right.
        teacher_only: That the teacher alone gets right.
        student_only: That the student alone gets right.
        neither: That neither gets right.
        examples: Some on which they differ.
    """

    both: int
    teacher_only: int
    student_only: int
    neither: int
    examples: list[Disagreement]


@torch.inference_mode()
def compare(
    teacher: nn.Module,
    student: nn.Module,
    images: Pictures,
    names: Sequence[str],
    *,
    limit: int = 256,
    examples: int = 12,
) -> Comparison:
    """Ask two networks about held-out pictures.

    Args:
        teacher: Maps [b, h, w, 3] uint8 to [b, k] logits.
        student: The same.
        images: Labelled.
        names: Of the classes, in the order of the logits.
        limit: Pictures to ask about, spread evenly over the set.
        examples: Largest number of disagreements to show.
    """
    counts = {(one, other): 0 for one in (True, False) for other in (True, False)}
    shown: list[Disagreement] = []
    for batch in ordered_batches(images, at_once(images), limit):
        if not len(batch.images):
            continue
        one, other = (_probabilities(network, batch.images) for network in (teacher, student))
        for pixels, label, dense, small in zip(
            batch.images, batch.tensor.tolist(), one, other, strict=True
        ):
            teachers, students = _answer(dense, label, names), _answer(small, label, names)
            counts[teachers.right, students.right] += 1
            if teachers.label != students.label and len(shown) < examples:
                shown.append(
                    Disagreement(
                        address(Image.fromarray(np.asarray(pixels))),
                        names[label],
                        teachers,
                        students,
                    )
                )
    return Comparison(
        counts[True, True], counts[True, False], counts[False, True], counts[False, False], shown
    )


@torch.inference_mode()
def layer_noise(
    exact: nn.Module, rounded: nn.Module, layers: Sequence[Layer], images: Tensor
) -> dict[str, float]:
    """Measure what quantisation does to each layer's output, errors of earlier layers included.

    Args:
        exact: The float network.
        rounded: The same network, quantised; its layers have the same names.
        layers: To look at.
        images: [b, h, w, 3].

    Returns:
        Signal-to-noise ratio of each layer's output in dB, by name; infinite where nothing moved.
    """
    names = [layer.name for layer in layers]
    with captured_outputs(exact, names) as signals:
        exact(images.to(_device(exact)))
    with captured_outputs(rounded, names) as noisy:
        rounded(images.to(_device(rounded)))
    return {name: _decibels(signals[name].cpu(), noisy[name].cpu()) for name in names}


def _decibels(signal: Tensor, noisy: Tensor) -> float:
    noise = (noisy - signal).double().square().sum().item()
    power = signal.double().square().sum().item()
    return 10 * math.log10(power / noise) if noise and power else math.inf


def _probabilities(network: nn.Module, images: Tensor) -> Tensor:
    probabilities: Tensor = network(images.to(_device(network))).float().softmax(dim=-1).cpu()
    return probabilities


def _answer(probabilities: Tensor, label: int, names: Sequence[str]) -> Answer:
    best = int(probabilities.argmax())
    return Answer(names[best], probabilities[best].item(), best == label)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
