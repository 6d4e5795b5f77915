"""What TensorRT writes into its log, and what that means for a plan that it does not load."""

from __future__ import annotations

import functools
import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from contract.cuda import Device

logger = logging.getLogger(__name__)

_KEPT_LINES: Final = 8
# Its places in its own sources, and its numbers.
_PLACE: Final = re.compile(r"^(\d+: )?(\[[^\]]*\] ?)?(I\w+::\w+: )?(Error Code \d+: )?")
_VERSIONS: Final = re.compile(r"expecting library version (\S+) got (\S+?),? please")
_COMPUTES: Final = re.compile(r"expecting compute (\S+) got (?:compute )?(\S+?),? please")
_OTHER_VERSION: Final = "Version tag does not match"
# The first bytes are not what this version writes.
_NO_PLAN: Final = "MAGIC_TAG"


@functools.cache
def log_of(trt: Any) -> Any:
    """Return the logger of this process for TensorRT; its ``said`` holds the last errors, as texts.

    One for all that builds and runs: TensorRT goes on with the first it was given as long as
    anything made with it lives, and ignores others.

    Args:
        trt: The module ``tensorrt``.
    """
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Log(trt.ILogger):  # type: ignore[misc] # TensorRT has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: deque[str] = deque(maxlen=_KEPT_LINES)
            self.keepers: list[tuple[str, list[str]]] = []

        def log(self, severity: Any, msg: str) -> None:
            for mark, lines in tuple(self.keepers):
                if mark in msg:
                    lines.append(msg.strip())
            if severity in errors:
                self.said.append(_PLACE.sub("", msg.strip(), count=1))
            elif severity == trt.ILogger.WARNING:
                logger.info("TensorRT: %s", msg.strip())

    return Log()


@contextmanager
def kept(trt: Any, mark: str = "") -> Iterator[list[str]]:
    """Keep the lines with a mark that TensorRT writes, of every severity, while the block runs.

    Args:
        trt: The module ``tensorrt``; what is built has to be given ``log_of(trt)``.
        mark: Without one, all lines are kept, which of a build may be hundreds of megabytes.
    """
    lines: list[str] = []
    keepers = log_of(trt).keepers
    keepers.append((mark, lines))
    try:
        yield lines
    finally:
        # By identity: two lists with the same lines are equal.
        keepers[:] = [other for other in keepers if other[1] is not lines]


def refusal(name: str, said: Iterable[str], tensorrt: str, device: Device) -> str:
    """Say in one sentence why TensorRT did not load a plan, and what to do.

    Args:
        name: Of the plan.
        said: The errors in TensorRT's log.
        tensorrt: The version that refused.
        device: The GPU for which it did.
    """
    why = _why("\n".join(said), tensorrt, device)
    return (
        f"expected a plan for TensorRT {tensorrt} on {device}, {name} {why}. Build it on this "
        "machine with 'gpusq plan'."
    )


def _why(text: str, tensorrt: str, device: Device) -> str:
    # Which of the two numbers is the plan's differs between messages.
    if found := _VERSIONS.search(text):
        theirs = next((v for v in found.groups() if not v.startswith(tensorrt)), found[2])
        return f"was built by TensorRT {theirs}"
    if found := _COMPUTES.search(text):
        here = ".".join(map(str, device.capability))
        theirs = next((c for c in found.groups() if c != here), found[2])
        return f"was built for a GPU of compute capability {theirs}"
    if _OTHER_VERSION in text:
        return "was built by another version of TensorRT"
    if _NO_PLAN in text:
        return "is no plan, or one of a very different version"
    first = text.splitlines()[0] if text else "nothing"
    return f"is damaged or cut off (TensorRT says: {first})"
