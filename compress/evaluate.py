"""How right a network is: of a torch network or of an exported one, by its task's metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from compress.answers import Answers, Asked
from compress.criteria.criterion import as_float
from compress.data.batch import Batch
from compress.data.loading import at_once, chosen_batches
from compress.data.pictures import Pictures
from compress.errors import DataError
from compress.networks.network import Network
from compress.parallel import Processes
from compress.progress import progress

# As people read them.
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "box_ap75": "box AP75",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_ap75": "mask AP75",
}


@dataclass(frozen=True)
class Score:
    """What one network scored on one data set.

    Args:
        values: Fractions by metric; the first one is what networks are compared by.
        images: Pictures scored.
        skipped: Pictures that could not be decoded, with the reason.
    """

    values: dict[str, float]
    images: int
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Name what networks are compared by."""
        return next(iter(self.values))

    @property
    def main(self) -> float:
        """Return what networks are compared by."""
        return self.values[self.metric]

    def plain(self) -> dict[str, Any]:
        """Return everything for a program."""
        return {**self.values, "images": self.images, "skipped": self.skipped}

    def text(self) -> str:
        """Return every metric in one line."""
        found = [f"{METRICS[name]} {value:.4f}" for name, value in self.values.items()]
        return "   ".join([*found, f"images {self.images}"])


class Metric(Protocol):
    """Scores answers in two steps, so that processes can share the first."""

    def of(self, answers: Answers, batch: Batch) -> list[Any]:
        """Return what one batch contributes, one entry a picture."""

    def values(self, found: list[Any]) -> dict[str, float]:
        """Return the metrics of all entries, the one that networks are compared by first."""


class TopFive:
    """Top-1 and top-5 accuracy of ``scores`` [b, k]."""

    def of(self, answers: Answers, batch: Batch) -> list[int]:
        """Return how many classes come before the right one."""
        return _ranks(answers["scores"], batch.tensor.numpy())

    def values(self, found: list[int]) -> dict[str, float]:
        """Return the share of pictures whose class is the best, and among the best five."""
        first, five = np.mean([r == 0 for r in found]), np.mean([r < 5 for r in found])
        return {"top1": float(first), "top5": float(five)}


def evaluate(
    ask: Asked,
    images: Pictures,
    metric: Metric,
    what: str,
    processes: Processes | None = None,
    workers: int = 0,
) -> Score:
    """Score every picture of a labelled data set.

    Args:
        ask: The network.
        images: Labelled, without augmentation.
        metric: Of its task.
        what: Shown at the progress bar.
        processes: That share the work; each gets the whole result.
        workers: That decode the pictures of each process; 0 decodes in the process itself.

    Raises:
        DataError: Not one picture can be scored; names the first.
    """
    processes = processes or Processes()
    found: list[Any] = []
    unread: list[tuple[str, str]] = []
    share = range(processes.rank, len(images), processes.count)
    with progress(what, len(share), "image", leave=False, quiet=not processes.main) as bar:
        for batch in chosen_batches(images, at_once(images), share, workers):
            unread.extend(batch.skipped)
            bar.update(len(batch.images) + len(batch.skipped))
            if len(batch.images):
                found.extend(metric.of(ask(batch.images.numpy()), batch))
    everything = processes.gathered(found)
    skipped = dict(processes.gathered(unread))
    if not everything:
        name, reason = next(iter(skipped.items()))
        raise DataError(
            f"none of the {len(images)} pictures can be scored. The first is {name}: {reason}"
        )
    return Score(metric.values(everything), len(everything), skipped)


def torch_asked(network: Network) -> Asked:
    """Ask a torch network, in float32."""
    device = next(network.parameters()).device

    def ask(images: npt.NDArray[np.uint8]) -> Answers:
        with torch.inference_mode():
            raw = as_float(network(torch.from_numpy(images).to(device)))
            answers = network.answer(raw)
        return {name: value.cpu().numpy() for name, value in answers.items()}

    return ask


def _ranks(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> list[int]:
    # How many classes come before the right one. Of equal scores the lower index comes first, as
    # in argmax, so that a network with one answer for everything is not always right; NaN comes
    # before everything.
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    before = ~(scores <= right) | ((scores == right) & earlier)
    return [int(rank) for rank in before.sum(axis=1)]
