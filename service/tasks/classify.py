"""Classification: the scores of one picture become its likeliest classes. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contract.labels import LabelSet
from service.errors import Code, GatewayError, ModelError
from service.tasks import agreement
from service.tasks.task import Asked, Outputs, Shapes, Task

OUTPUT: Final = "scores"


@dataclass(frozen=True)
class Options:
    """What a request may choose.

    Args:
        top_k: How many classes to name; all of them where there are fewer.
    """

    top_k: int = 5


@dataclass(frozen=True)
class Prediction:
    """One class and how sure the network is of it.

    Args:
        index: Place in the network's output, from zero.
        label_id: Stable id of the class, such as a WordNet synset.
        label: Readable name.
        score: Probability, 0 to 1.
    """

    index: int
    label_id: str
    label: str
    score: float


def require_outputs(outputs: Shapes, labels: LabelSet) -> None:
    """Check that a network's outputs are those of a classifier with these labels.

    Raises:
        ModelError: No float32 ``scores`` [b, k], or another number of classes than labels.
    """
    expected = ("float32", (-1, len(labels)))
    if outputs.get(OUTPUT) != expected:
        raise ModelError(
            f"the card has {len(labels)} labels, so the output {OUTPUT!r} must be float32 "
            f"[-1, {len(labels)}], got {dict(outputs)}"
        )


def predict(outputs: Outputs, asked: Asked[Options]) -> list[Prediction]:
    """Return the likeliest classes of one picture, best first.

    Args:
        outputs: ``scores`` [1, k] float32.
        asked: k labels, and how many of them to name.

    Raises:
        GatewayError: A score is not a number, which only a broken network gives.
    """
    scores, labels = outputs[OUTPUT][0], asked.labels
    if not np.isfinite(scores).all():
        raise GatewayError(Code.INTERNAL, "The network gave scores that are not numbers.")
    return [
        Prediction(int(i), labels.ids[i], labels.names[i], float(scores[i]))
        for i in best(scores, asked.options.top_k)
    ]


def best(scores: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.intp]:
    """Return the indices of the largest scores, best first; of equal ones the lower index first.

    >>> best(np.array([0.2, 0.4, 0.4], np.float32), 2).tolist()
    [1, 2]
    """
    return np.argsort(-scores, kind="stable")[:top_k]


TASK: Final = Task("classify", require_outputs, predict, agreement.of_classes, quick=True)
