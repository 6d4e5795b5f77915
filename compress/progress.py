"""Progress while people wait: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, TypeAlias, final

from tqdm import tqdm

_LOG = logging.getLogger(__name__)
_EVERY_S = 30.0


Progress: TypeAlias = "tqdm[Any] | _Lines"


def progress(
    what: str, total: int, unit: str, *, first: int = 0, leave: bool = True, quiet: bool = False
) -> Progress:
    """Show how far something is.

    Args:
        what: Is done.
        total: Of it.
        unit: Of the total, in the singular.
        first: Where it begins.
        leave: Whether the end is worth a line.
        quiet: Show nothing.
    """
    if quiet or sys.stderr.isatty():
        return tqdm(
            total=total,
            initial=first,
            desc=what,
            unit=unit,
            dynamic_ncols=True,
            leave=leave,
            disable=quiet,
        )
    return _Lines(what, total, unit, first, leave)


@final
class _Lines:
    """Logs a line every half minute: escape codes are noise in a file."""

    def __init__(self, what: str, total: int, unit: str, done: int, leave: bool) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.leave = done, leave
        self.shown = ""
        self.since = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.leave and error is None:
            self._say()

    def update(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.since >= _EVERY_S:
            self._say()

    def set_postfix(self, values: dict[str, str], refresh: bool = True) -> None:  # noqa: ARG002
        self.shown = "".join(f", {name} {value}" for name, value in values.items())

    def _say(self) -> None:
        self.since = time.monotonic()
        _LOG.info("%s: %d of %d %ss%s", self.what, self.done, self.total, self.unit, self.shown)
