"""Names that stand for several models by weight, and models whose answers others check.

Read from one JSON file, and again whenever it changes:

    {"aliases": {"photo": {"deit-tiny": 95, "deit-tiny-next": 5}},
     "shadow": {"deit-tiny": {"model": "deit-dense", "share": 0.05}}}
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ServiceError, StartError
from service.executors.aside import aside
from service.executors.executor import Model

logger = logging.getLogger(__name__)

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_MOST_BYTES: Final = 1_000_000


class RoutesError(ServiceError):
    """The file cannot be read, or does not say what it must."""


class Shadow(BaseModel):
    """Who checks the answers of a model, and how many of them.

    Args:
        model: Who.
        share: Of the requests, more than 0, at most 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    share: float = Field(gt=0, le=1)


class Routes(BaseModel):
    """What the file says.

    Args:
        aliases: By name, the models that answer for it, each with its weight.
        shadow: By name of the model whose answers are checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    aliases: Mapping[str, Mapping[str, _Weight]] = {}
    shadow: Mapping[str, Shadow] = {}

    @model_validator(mode="after")
    def _require_sense(self) -> Routes:
        for name, weights in self.aliases.items():
            if not name or not any(weights.values()):
                raise ValueError(f"the alias {name!r} needs a name, and a model of some weight")
        for name, shadow in self.shadow.items():
            if name == shadow.model:
                raise ValueError(f"the model {name!r} cannot check itself")
        return self

    def pick(self, alias: str, models: Mapping[str, Model], chance: float) -> str:
        """Return the model that answers for an alias; one that cannot leaves it to the others.

        Args:
            alias: One of :attr:`aliases`.
            models: Those that can be asked.
            chance: Where between 0 and 1 the request falls.

        >>> Routes(aliases={"a": {"old": 3, "new": 1}}).pick("a", {}, 0.8)
        'old'
        """
        weights = {name: weight for name, weight in self.aliases[alias].items() if weight}
        able = {name: weight for name, weight in weights.items() if name in models}
        if not able:
            return max(weights, key=lambda name: weights[name])
        left = chance * sum(able.values())
        for name, weight in able.items():
            left -= weight
            if left < 0:
                return name
        return name

    def problems(self, models: Mapping[str, Model], unavailable: Mapping[str, str]) -> list[str]:
        """Return in sentences what the file asks for and cannot be done with these models."""
        known = {*models, *unavailable}
        said = [
            f"the alias {alias!r} names {name!r}, which is no model"
            for alias, weights in self.aliases.items()
            for name in sorted(weights.keys() - known)
        ]
        said += filter(None, (self.mixed(alias, models) for alias in self.aliases))
        for name, shadow in self.shadow.items():
            said += [
                f"the shadow of {name!r}: {one!r} is no model"
                for one in (name, shadow.model)
                if one not in known
            ]
            if {name, shadow.model} <= models.keys() and _differ(models, name, shadow.model):
                said.append(f"the shadow of {name!r}: {shadow.model!r} is for another task")
        return said

    def mixed(self, alias: str, models: Mapping[str, Model]) -> str | None:
        """Say that an alias stands for models of several tasks, where it does."""
        tasks = {name: models[name].card.task for name in self.aliases[alias] if name in models}
        if len(set(tasks.values())) < 2:
            return None
        can = ", ".join(f"{name!r} can {task}" for name, task in tasks.items())
        return f"the alias {alias!r} stands for models of several tasks: {can}"


def _differ(models: Mapping[str, Model], one: str, other: str) -> bool:
    return models[one].card.task != models[other].card.task


def read(path: Path) -> Routes:
    """Read the file.

    Raises:
        RoutesError: It cannot be read, or does not say what it must.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise RoutesError(f"{path} has more than {_MOST_BYTES:,} bytes")
        return Routes.model_validate_json(data)
    except OSError as error:
        raise RoutesError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RoutesError(f"{path}: {f'{where}: ' if where else ''}{first['msg']}") from error


class Router:
    """The routes as the file has them now.

    Args:
        path: The file; None for no routes.
        check_s: Time between two looks at it.

    Raises:
        StartError: The file cannot be read, or does not say what it must.
    """

    def __init__(self, path: Path | None, check_s: float) -> None:
        self.routes = Routes()
        self._path = path
        self._check_s = check_s
        self._complaint: str | None = None
        # Which model answers is no secret.
        self._random = random.Random()  # noqa: S311
        if path is not None:
            try:
                self.routes = read(path)
            except RoutesError as error:
                raise StartError(f"GPUSQ_ROUTES: {error}") from error

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the file until cancelled; what is broken changes nothing.

        Args:
            changed: Called when :attr:`routes` changed.
        """
        if (path := self._path) is None:
            return
        while True:
            await asyncio.sleep(self._check_s)
            try:
                routes = await aside(lambda: read(path))
            except RoutesError as error:
                self._complain(str(error))
                continue
            self._complaint = None
            if routes != self.routes:
                logger.info("the routes have changed")
                self.routes = routes
                changed()

    def pick(self, alias: str, models: Mapping[str, Model]) -> str:
        """Return the model that answers this request for an alias."""
        return self.routes.pick(alias, models, self._random.random())

    def shadow(self, model: str) -> str | None:
        """Return who checks this answer of a model, if anybody does."""
        shadow = self.routes.shadow.get(model)
        return shadow.model if shadow and self._random.random() < shadow.share else None

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            logger.warning("the routes stay as they were: %s", why)
        self._complaint = why
