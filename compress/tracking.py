"""Metrics while they happen: TensorBoard, or another tracker that Accelerate knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.errors import RecipeError


class Tracker:
    """Writes metrics of a run to every tracker that the recipe names.

    Args:
        names: Of the trackers, as Accelerate calls them; none writes nothing.
        folder: Of the run; TensorBoard's files lie in its ``tensorboard``.
        project: Name of the experiment.
        config: Plain values to show beside the metrics.

    Raises:
        RecipeError: A tracker is not installed.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, project: str, config: dict[str, Any]
    ) -> None:
        self._accelerator: Any = None
        if not names:
            return
        # Imported late: a run without trackers does without it.
        from accelerate import Accelerator  # noqa: PLC0415
        from accelerate.utils import ProjectConfiguration  # noqa: PLC0415

        place = ProjectConfiguration(str(folder), logging_dir=str(folder / "tensorboard"))
        self._accelerator = Accelerator(log_with=list(names), project_config=place)
        known = {str(tracker) for tracker in self._accelerator.log_with}
        if missing := [name for name in names if name not in known]:
            raise RecipeError(
                f"trackers: {', '.join(missing)} is not installed. Install it, or take it out of "
                "the recipe."
            )
        self._accelerator.init_trackers(project)
        for tracker in self._accelerator.trackers:
            # TensorBoard would open a second run for them.
            if tracker.name != "tensorboard":
                tracker.store_init_configuration(config)

    def log(self, stage: str, values: dict[str, float], step: int) -> None:
        """Write the metrics of one step of a stage."""
        if self._accelerator is not None:
            named = {f"{stage}/{name}": value for name, value in values.items()}
            self._accelerator.log(named, step=step)

    def close(self) -> None:
        """Finish every tracker."""
        if self._accelerator is not None:
            for tracker in self._accelerator.trackers:
                tracker.finish()
