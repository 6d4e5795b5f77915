"""TensorRT, loaded only where a plan is built, and what it reports while it builds.

The names that differ between 8.5 and 11 are looked up here and nowhere else. Imports neither torch
nor pydantic, and TensorRT itself only when asked.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import Any, Final

from compress.errors import PlanError

_LOG = logging.getLogger(__name__)
_EVERY_S: Final = 30.0
# What the builder writes of sparsity may come at any severity.
_SPARSITY: Final = "(Sparsity)"
_SHOWN_ERRORS: Final = 5


def load() -> Any:
    """Return the module ``tensorrt``.

    Raises:
        PlanError: It is not installed, or cannot be loaded on this machine.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise PlanError(
            f"building a plan needs TensorRT with its builder on a machine with an NVIDIA GPU "
            f"({error}). Run this in NVIDIA's TensorRT container or on a Jetson, or install the "
            "package tensorrt that fits the driver."
        ) from error


def member(group: Any, name: str) -> Any:
    """Return one value of an enumeration of TensorRT, or None in a version without it."""
    return getattr(group, name, None)


def logger(trt: Any) -> Any:
    """Return a logger that keeps what the builder says: ``lines``, and of those ``errors``."""

    class Lines(trt.ILogger):  # type: ignore[misc] # the module is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            # Severities grow towards the less severe. VERBOSE is megabytes.
            if int(severity) <= int(trt.ILogger.Severity.INFO) or _SPARSITY in message:
                self.lines.append(message)
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message)
                _LOG.debug("TensorRT: %s", message)

    return Lines()


def said(errors: list[str]) -> str:
    """Return the errors of a logger as part of a sentence."""
    shown = "; ".join(" ".join(message.split()) for message in errors[:_SHOWN_ERRORS])
    more = len(errors) - _SHOWN_ERRORS
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
