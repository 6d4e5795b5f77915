"""Whether an exported graph computes what the network computes, by what each task answers.

Two correct implementations round a few activations to neighbouring integers, which moves
probabilities a little; a wrong graph moves them a lot, and everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from compress.errors import ExportError
from compress.evaluate import Answers, onnx_asked, torch_asked
from compress.networks.network import Network

_AGREEMENT = 0.98
# Between classes whose probabilities differ by less, such rounding may decide.
_WAVERING = 0.1
# Objects below this score are noise; boxes that overlap by this much are the same.
_SEEN = 0.3
_SAME_BOX = 0.9
_SCORE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Parity:
    """How far an exported graph is from the network.

    Args:
        largest: Largest difference.
        mean: Mean difference of what counts.
        agreement: Share of what the graph answers that the network answers too, or nearly.
        where: The place of the largest difference.
        differs: What the differences are of.
        agrees: What is shared.
        allowed: Largest mean difference.
    """

    largest: float
    mean: float
    agreement: float
    where: str
    differs: str = "probabilities"
    agrees: str = "of the pictures get the same class or one nearly as likely"
    allowed: float = 2e-3


def check(network: Network, model: Path, pictures: Iterable[Tensor], task: str) -> Parity:
    """Compare ONNX Runtime on the graph with the network itself.

    Args:
        network: In evaluation mode, on the CPU.
        model: Its graph.
        pictures: Batches [b, h, w, 3].
        task: Says what is compared.

    Raises:
        ExportError: They disagree; says by how much, and where most.
    """
    ask, ask_graph = torch_asked(network), onnx_asked(model)
    answers = [(ask(batch.numpy()), ask_graph(batch.numpy())) for batch in pictures]
    parity = _COMPARE[task](
        _joined([expected for expected, _ in answers]), _joined([came for _, came in answers])
    )
    # Written so that NaN is refused.
    if not (parity.mean <= parity.allowed and parity.agreement >= _AGREEMENT):
        raise ExportError(
            f"{model.name} does not compute what the network computes: {parity.differs} differ by "
            f"{parity.largest:.4f} at most ({parity.where}) and {parity.mean:.5f} on average "
            f"(allowed {parity.allowed}); {parity.agreement:.1%} {parity.agrees} "
            f"(required {_AGREEMENT:.0%})"
        )
    return parity


def _joined(answers: list[Answers]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}


def _classes(expected: Answers, came: Answers) -> Parity:
    ours, theirs = expected["scores"], came["scores"]
    difference = np.abs(ours - theirs)
    picture, label = np.unravel_index(difference.argmax(), difference.shape)
    # Most of 1,000 classes have no probability at all; they would hide a difference.
    told = ~(np.maximum(ours, theirs) < 1e-3)
    chosen = np.take_along_axis(ours, theirs.argmax(axis=1)[:, None], axis=1)[:, 0]
    agreed = ours.max(axis=1) - chosen < _WAVERING
    return Parity(
        largest=float(difference.max()),
        mean=float(difference[told].mean()),
        agreement=float(agreed.mean()),
        where=f"picture {picture}, class {label}",
    )


def _class_maps(expected: Answers, came: Answers) -> Parity:
    differing = (expected["class_map"] != came["class_map"]).mean(axis=(1, 2))
    worst = int(differing.argmax())
    return Parity(
        largest=float(differing[worst]),
        mean=float(differing.mean()),
        agreement=1 - float(differing.mean()),
        where=f"picture {worst}",
        differs="shares of pixels of another class",
        agrees="of all pixels get the same class",
        allowed=1 - _AGREEMENT,
    )


def _detections(expected: Answers, came: Answers) -> Parity:
    """Pair each object of the network with the graph's nearest box of the same class."""
    found = [
        (best[0], best[1], picture, place)
        for picture, place in np.argwhere(_told(expected["scores"]))
        for best in [_nearest(expected, came, picture, place)]
    ]
    overlaps, differences = (np.array([row[index] for row in found]) for index in (0, 1))
    worst = int(differences.argmax())
    return Parity(
        largest=float(differences[worst]),
        mean=float(differences.mean()),
        agreement=float((overlaps >= _SAME_BOX).mean()),
        where=f"picture {found[worst][2]}, object {found[worst][3]}",
        differs="scores",
        agrees="of the objects have the same class and place",
        allowed=_SCORE_TOLERANCE,
    )


def _told(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Choose the objects that a reader would see, and the best one of each picture."""
    told: npt.NDArray[np.bool_] = scores >= _SEEN
    told[:, 0] = True
    return told


def _nearest(expected: Answers, came: Answers, picture: int, place: int) -> tuple[float, float]:
    """Return the overlap with the nearest box of the same class, and how far the scores differ."""
    score = float(expected["scores"][picture, place])
    same = came["labels"][picture] == expected["labels"][picture, place]
    if not same.any():
        return 0.0, score
    overlaps = _overlaps(expected["boxes"][picture, place], came["boxes"][picture][same])
    best = int(overlaps.argmax())
    return float(overlaps[best]), abs(score - float(came["scores"][picture][same][best]))


def _overlaps(
    box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the intersection over union of one [4] box with [n, 4] others, xyxy."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    overlaps: npt.NDArray[np.float32] = shared / np.maximum(areas - shared, 1e-12)
    return overlaps


_COMPARE: dict[str, Callable[[Answers, Answers], Parity]] = {
    "classify": _classes,
    "segment": _class_maps,
    "detect": _detections,
}
