"""Whether two runs of one graph agree, by what each task answers. Needs NumPy alone.

Two correct implementations round a few activations to neighbouring integers, which moves
probabilities a little; a wrong graph moves them a lot, and everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from compress.answers import Answers
from compress.pairing import Pair, pairs

_AGREEMENT = 0.98
# Between classes whose probabilities differ by less, such rounding may decide.
_WAVERING = 0.1
# Boxes that overlap by this much are the same.
_SAME_BOX = 0.9
# Masks are the same where this share of their cells is on the same side of one half.
_SAME_MASK = 0.9
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

    @property
    def refusal(self) -> str:
        """Say why the graph is refused: by how much it differs, and where most; "" where it is not.

        What an answer that is no number differs by is no number, and refused.
        """
        return "" if self.holds else str(self)

    @property
    def holds(self) -> bool:
        """Whether the graph computes what the network computes; never with NaN."""
        return self.mean <= self.allowed and self.agreement >= _AGREEMENT

    def __str__(self) -> str:
        """Return what was found beside what is required."""
        return (
            f"{self.differs} differ by {self.largest:.4f} at most ({self.where}) and "
            f"{self.mean:.5f} on average (allowed {self.allowed:g}); {self.agreement:.1%} "
            f"{self.agrees} (required {_AGREEMENT:.0%})"
        )


def compare(task: str, expected: Answers, came: Answers, allowed: float | None = None) -> Parity:
    """Compare the answers of two runs to the same pictures.

    Args:
        task: Says what is compared.
        expected: Of the network.
        came: Of the graph.
        allowed: Largest mean difference, where another than the task's own is right.
    """
    found = _COMPARE[task](expected, came)
    return found if allowed is None else dataclasses.replace(found, allowed=allowed)


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
    found = [
        (pair.apart, _same(one, other, picture, pair), f"picture {picture}, {whose} {pair.place}")
        # Either way, so that what the graph alone sees is a difference too.
        for one, other, whose in ((expected, came, "object"), (came, expected, "graph's object"))
        for picture in range(len(expected["scores"]))
        for pair in pairs(one, other, picture)
    ]
    if not found:
        # Neither sees anything; how little each does, best first, is all there is to compare.
        apart = float(np.abs(expected["scores"] - came["scores"]).max(initial=0))
        found = [(apart, True, "no object")]
    what = "class, place and mask" if "masks" in expected else "class and place"
    largest, _, where = max(found, key=lambda entry: entry[0])
    return Parity(
        largest=largest,
        mean=float(np.mean([apart for apart, _, _ in found])),
        agreement=float(np.mean([same for _, same, _ in found])),
        where=where,
        differs="scores",
        agrees=f"of the objects have the same {what}",
        allowed=_SCORE_TOLERANCE,
    )


def _same(one: Answers, other: Answers, picture: int, pair: Pair) -> bool:
    if pair.other is None or pair.overlap < _SAME_BOX:
        return False
    if "masks" not in one:
        return True
    inside, theirs = one["masks"][picture, pair.place], other["masks"][picture, pair.other]
    return bool(((inside >= 0.5) == (theirs >= 0.5)).mean() >= _SAME_MASK)


_COMPARE: Final[Mapping[str, Callable[[Answers, Answers], Parity]]] = {
    "classify": _classes,
    "segment": _class_maps,
    "detect": _detections,
}
