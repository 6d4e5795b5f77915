"""What a builder of TensorRT reports, by version. Imports neither torch nor pydantic."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any, Final

_LOG = logging.getLogger(__name__)
_EVERY_S: Final = 30.0
_SHOWN_ERRORS: Final = 5


def member(group: Any, name: str) -> Any:
    """Return one value of an enumeration of TensorRT, or None in a version without it."""
    return getattr(group, name, None)


def said(errors: Iterable[str]) -> str:
    """Return what TensorRT gave as reasons as part of a sentence."""
    lines = [" ".join(message.split()) for message in errors]
    shown = "; ".join(lines[:_SHOWN_ERRORS])
    more = len(lines) - _SHOWN_ERRORS
    return (shown or "it gave no reason") + (f"; and {more} more" if more > 0 else "")


def watch(trt: Any, config: Any, what: str) -> Any:
    """Log twice a minute how far the builder is, where TensorRT can say so (from 10.0 on).

    Returns:
        What has to live as long as the build.
    """
    if not hasattr(trt, "IProgressMonitor"):
        _LOG.info("%s: building, for minutes; this TensorRT tells no progress", what)
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the module is known only at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.since = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            if parent_phase is None:
                _LOG.info("%s: %s", what, phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self.since >= _EVERY_S:
                self.since = time.monotonic()
                steps = self.steps.get(phase_name, 0)
                _LOG.info("%s: %s, step %d of %d", what, phase_name, step + 1, steps)
            return True

    monitor = config.progress_monitor = Monitor()
    return monitor
