"""What the stages of one compression are given, and what each of them makes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from compress.evaluate import Score
from compress.networks.network import Network
from compress.parallel import Processes
from compress.recipe import Recipe
from compress.run import Run
from compress.tasks.task import Task
from compress.tracking import Tracker
from compress.train import History


@dataclass(frozen=True)
class Work:
    """What every stage needs.

    Args:
        recipe: What to do.
        run: Where results and checkpoints are.
        task: Pictures, labels, metric.
        processes: That train together; each on its device.
        tracker: Shows metrics while they happen.
    """

    recipe: Recipe
    run: Run
    task: Task
    processes: Processes = field(default_factory=Processes)
    tracker: Tracker | None = None

    @property
    def device(self) -> torch.device:
        """Where networks are trained."""
        return self.processes.device


@dataclass(frozen=True)
class Result:
    """What one stage made.

    Args:
        network: In evaluation mode.
        scores: On every held-out folder.
        history: Of its training; empty where there was none.
    """

    network: Network
    scores: dict[str, Score]
    history: History = field(default_factory=History)
