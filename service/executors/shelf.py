"""The networks that are held in memory: those that answer, those that drain, those refused."""

from __future__ import annotations

import logging
import time
from typing import Final

from service.executors.executor import Images, Model
from service.executors.loading import Loaded

logger = logging.getLogger(__name__)

# What failed for want of memory, or while a file was being copied, may go well later.
RETRY_S: Final = 60.0


class Shelf:
    """Networks by name. To be used from one thread, that of the event loop."""

    def __init__(self) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.draining: list[Loaded] = []
        # Why the files that lie there now cannot be loaded, and when that was found.
        self._refused: dict[str, tuple[str, float]] = {}

    def put(self, name: str, new: Loaded) -> Loaded | None:
        """Let a network answer from now on, and return the one that did, which drains."""
        self._refused.pop(name, None)
        old = self.loaded.get(name)
        if old is new:
            return None
        self.loaded[name] = new
        logger.info("model %s version %d is ready", name, new.model.version)
        return self._drain(old)

    def refuse(self, name: str, why: str) -> None:
        """Note that the files of a model cannot be loaded; what answers by that name stays."""
        before = self._refused.get(name, ("", 0.0))[0]
        self._refused[name] = why, time.monotonic()
        if why != before and (kept := self.loaded.get(name)) is not None:
            logger.warning(
                "version %d of model %s still answers, its newest cannot be loaded: %s",
                kept.model.version,
                name,
                why,
            )

    def drop(self, name: str) -> Loaded | None:
        """Forget a model, and return its network, which drains."""
        self._refused.pop(name, None)
        return self._drain(self.loaded.pop(name, None))

    def find(self, name: str, images: Images, version: int | None) -> Loaded | None:
        """Return the network that a batch was made for; None where it is closed.

        Files may be replaced under the same version, so the size of the pictures counts too.
        """
        newest = self.loaded.get(name)
        if newest is not None and version is None:
            return newest
        older = [one for one in self.draining if one.model.name == name]
        held = [one for one in (newest, *older) if one is not None and one.model.version == version]
        fitting = (one for one in held if one.takes(images))
        return next(fitting, held[0] if held else None)

    def models(self) -> dict[str, Model]:
        """Return what can be asked."""
        return {name: one.model for name, one in self.loaded.items() if one.fault is None}

    def unavailable(self) -> dict[str, str]:
        """Return why the others cannot be asked."""
        faulty = {name: one.fault for name, one in self.loaded.items() if one.fault is not None}
        refused = {n: why for n, (why, _) in self._refused.items() if n not in self.loaded}
        return {**refused, **faulty}

    def behind(self) -> dict[str, str]:
        """Return why models answer by an earlier version."""
        return {n: why for n, (why, _) in self._refused.items() if n in self.loaded}

    def to_retry(self) -> list[str]:
        """Return the models that were refused long ago."""
        now_s = time.monotonic()
        return [name for name, (_, when_s) in self._refused.items() if now_s - when_s > RETRY_S]

    def all(self) -> list[Loaded]:
        """Return every network that holds memory."""
        return [*self.loaded.values(), *self.draining]

    def clear(self) -> None:
        """Forget them all."""
        self.loaded.clear()
        self.draining.clear()

    def _drain(self, old: Loaded | None) -> Loaded | None:
        if old is not None:
            self.draining.append(old)
        return old
