"""Metrics while they happen: TensorBoard, or another tracker that Accelerate knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from compress.errors import RecipeError

_LOG = logging.getLogger(__name__)
# What MLflow takes in a metric's name, but for the slash, which divides stage and metric.
_ILLEGAL = re.compile(r"[^\w\-. ]")


class Tracker:
    """Writes metrics of a run to every tracker that the recipe names.

    A tracker that fails while the run goes on is named in a warning and left out from then on:
    its metrics are worth less than the training.

    Args:
        names: Of the trackers, as Accelerate calls them; none writes nothing.
        folder: Of the run; TensorBoard's files lie in its ``tensorboard``.
        project: Name of the experiment.
        config: Plain values to show beside the metrics.

    Raises:
        RecipeError: A tracker is not installed, or does not start.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, project: str, config: dict[str, Any]
    ) -> None:
        self._trackers: list[Any] = []
        if not names:
            return
        # Imported late: a run without trackers does without it.
        from accelerate import Accelerator  # noqa: PLC0415
        from accelerate.utils import ProjectConfiguration  # noqa: PLC0415

        place = ProjectConfiguration(str(folder), logging_dir=str(folder / "tensorboard"))
        accelerator = Accelerator(log_with=list(names), project_config=place)
        known = {str(tracker) for tracker in accelerator.log_with}
        if missing := [name for name in names if name not in known]:
            raise RecipeError(
                f"trackers: {', '.join(missing)} is not installed. Install it, or take it out of "
                "the recipe."
            )
        try:
            self._trackers = _started(accelerator, project, config)
        except Exception as error:
            raise RecipeError(
                f"trackers: {', '.join(names)} cannot be started: {error} Put that right, or take "
                "it out of the recipe."
            ) from error

    def log(self, stage: str, values: dict[str, float], step: int) -> None:
        """Write the metrics of one step.

        Args:
            stage: Stands before every name.
            values: By name; characters that a tracker refuses are replaced.
            step: Of the whole run, earlier stages included: Weights & Biases drops what lies
                before a step that it has seen.
        """
        named = metric_names(stage, values)
        plain = dict(zip(named, values.values(), strict=True))
        self._each(lambda tracker: tracker.log(plain, step=step))

    def close(self) -> None:
        """Finish every tracker."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, act: Callable[[Any], object]) -> None:
        self._trackers = [tracker for tracker in self._trackers if _done(tracker, act)]


def _done(tracker: Any, act: Callable[[Any], object]) -> bool:
    try:
        act(tracker)
    except Exception as error:  # noqa: BLE001 - a foreign library, which may raise anything
        _LOG.warning("the tracker %s failed and is left out from now on: %s", tracker.name, error)
        return False
    return True


def metric_names(stage: str, names: Iterable[str]) -> list[str]:
    """Return what metrics are called in every tracker, each by another name.

    >>> metric_names("sparse", ["loss", "ImageNet (10 classes)", ".."])
    ['sparse/loss', 'sparse/ImageNet _10 classes_', 'sparse/__']
    """
    found: list[str] = []
    for name in names:
        legal = _ILLEGAL.sub("_", name) or "_"
        # A path of dots alone is refused as well.
        legal = legal if legal.strip(".") else "_" * len(legal)
        while f"{stage}/{legal}" in found:
            legal += "_"
        found.append(f"{stage}/{legal}")
    return found


def _started(accelerator: Any, project: str, config: dict[str, Any]) -> list[Any]:
    accelerator.init_trackers(project)
    for tracker in accelerator.trackers:
        # TensorBoard would open a second run for them.
        if tracker.name != "tensorboard":
            tracker.store_init_configuration(config)
    return list(accelerator.trackers)
