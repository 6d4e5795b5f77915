"""Which models can be asked, which cannot and why, and which one a request means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from service.errors import (
    Code,
    GatewayError,
    ModelError,
    VersionGoneError,
    WrongTaskError,
    shown,
)
from service.executors.executor import Executor, Model
from service.metrics import Metrics
from service.routing import Router
from service.tasks import classify, detect, segment
from service.tasks.task import Task

logger = logging.getLogger(__name__)

TASKS: Final[Mapping[str, Task[Any, Any]]] = {
    task.name: task for task in (classify.TASK, detect.TASK, segment.TASK)
}
PREFERRED_MODEL: Final = "deit-tiny"
# Executors that were away are asked again about this often.
RETRY_AFTER_S: Final = 1


class Catalogue:
    """The models of one executor, as they come, change and go.

    Args:
        executor: Whose models.
        default_model: The one that answers where a request names none; None for the preferred
            one, else the first.
        metrics: Hears of every change.
        router: Knows what names stand for several models.
    """

    def __init__(
        self, executor: Executor, default_model: str | None, metrics: Metrics, router: Router
    ) -> None:
        self._executor = executor
        self._wanted = default_model
        self._metrics = metrics
        self._router = router
        self._problems: list[str] = []
        self.models: Mapping[str, Model] = {}
        self.unavailable: Mapping[str, str] = {}
        self.default = default_model or PREFERRED_MODEL
        self.defaults: Mapping[str, str] = {}
        self.take_up()

    def take_up(self) -> None:
        """Read the executor's models and the routes again."""
        self.models, refused = _servable(self._executor.models)
        self.unavailable = {**self._executor.unavailable, **refused}
        known = {*self.models, *self.unavailable, *self.aliases}
        # A default that fails for a while stays the default, so that readiness speaks of it.
        if self.default not in known:
            self.default = _default(self.models, self._wanted)
        away = known - self.models.keys()
        kept = {t: n for t, n in self.defaults.items() if n in away and not self.answers(n)}
        chosen = dict.fromkeys(self.tasks(self.default), self.default)
        self.defaults = {**_first(self.models), **chosen, **kept}
        self._say_problems()
        self._metrics.take_up(self.models, self.unavailable, self._executor.behind)

    @property
    def behind(self) -> Mapping[str, str]:
        """The models that answer by an earlier version, with the reason why not by the newest."""
        return self._executor.behind

    @property
    def aliases(self) -> Mapping[str, Mapping[str, float]]:
        """Names that stand for models, each with its weight."""
        return self._router.routes.aliases

    def tasks(self, name: str) -> set[str]:
        """Return the task of a model; of an alias that of the models which can be asked."""
        named = self.aliases.get(name, (name,))
        return {self.models[one].card.task for one in named if one in self.models}

    def answers(self, name: str) -> bool:
        """Whether a model can be asked, or an alias."""
        return len(self.tasks(name)) == 1

    def real(self, model: str | None, task: str | None) -> str | None:
        """Return the model that answers one request, where it names an alias or the default is one.

        A name that is no alias comes back as it is.
        """
        name = model or self.defaults.get(task or "")
        if name is None or name not in self.aliases or not self.answers(name):
            return name
        return self._router.pick(name, self.models)

    def foremost(self, name: str) -> str:
        """Return the model that answers most of the requests for an alias, or that is named."""
        able = {
            one: weight for one, weight in self.aliases.get(name, {}).items() if one in self.models
        }
        return max(able, key=lambda one: able[one], default=name)

    def label(self, task: str | None, model: str | None) -> str | None:
        """Return the name under which a request is counted; None for a model that is none."""
        # A name that no model has must not become a label: clients choose it.
        name = model or self.defaults.get(task or "")
        return name if name in self.models else None

    def find(self, model: str, version: int | None = None) -> Model:
        """Return a model by its name.

        Raises:
            GatewayError: There is none, it cannot be asked for now, or it has another version.
        """
        if (why := self._executor.down) is not None:
            raise GatewayError(Code.EXECUTOR_UNAVAILABLE, why, retry_after_s=RETRY_AFTER_S)
        if model in self.unavailable:
            raise GatewayError(
                Code.MODEL_UNAVAILABLE,
                f"The model {model!r} is unavailable: {self.unavailable[model]}",
            )
        if model in self.aliases and not self.answers(model):
            why = self._router.routes.mixed(model, self.models) or self._away(model)
            raise GatewayError(Code.MODEL_UNAVAILABLE, f"No model answers: {why}.")
        if model not in self.models:
            known = ", ".join(sorted({*self.models, *self.aliases}))
            raise GatewayError(
                Code.UNKNOWN_MODEL, f"There is no model {shown(model)}. There are: {known}."
            )
        found = self.models[model]
        if version not in (None, found.version):
            raise GatewayError(
                Code.UNKNOWN_MODEL,
                f"There is no version {version} of the model {model!r}; version {found.version} "
                "is served.",
            )
        return found

    def target(self, task: str, model: str | None) -> Model:
        """Return the model that a request for a task means.

        Raises:
            GatewayError: As for :meth:`find`, or no model can do the task.
            WrongTaskError: It is for another task.
        """
        name = model or self.defaults.get(task)
        if name is None and self._executor.down is None:
            raise GatewayError(Code.UNKNOWN_MODEL, f"There is no model that can {task}.")
        found = self.find(name or "")
        if (does := found.card.task) != task:
            able = ", ".join(n for n, known in self.models.items() if known.card.task == task)
            raise WrongTaskError(
                f"The model {name!r} can {does}, it cannot {task}. Models that can: "
                f"{able or 'none'}.",
                does,
            )
        return found

    def _away(self, alias: str) -> str:
        """Say that none of the models behind an alias can be asked."""
        named = ", ".join(
            f"{name!r} ({self.unavailable.get(name, 'no model')})" for name in self.aliases[alias]
        )
        return f"the alias {alias!r} stands for {named}"

    def _say_problems(self) -> None:
        problems = self._router.routes.problems(self.models, self.unavailable)
        for problem in problems:
            if problem not in self._problems:
                logger.warning("%s", problem)
        self._problems = problems


def replaced(model: str, error: VersionGoneError) -> GatewayError:
    """Return the error of a model whose versions change faster than a request is answered."""
    return GatewayError(
        Code.MODEL_UNAVAILABLE,
        f"The model {model!r} is being replaced: {error}. Try again.",
        retry_after_s=RETRY_AFTER_S,
    )


def require_servable(model: Model) -> None:
    """Check that its task can read the outputs of a model.

    Raises:
        ModelError: It cannot.
    """
    outputs = {spec.name: (spec.dtype, spec.shape) for spec in model.outputs}
    TASKS[model.card.task].require_outputs(outputs, model.card.labels)


def _servable(models: Mapping[str, Model]) -> tuple[dict[str, Model], dict[str, str]]:
    """Return the models whose outputs their task can read, and why the others are not."""
    reasons = {name: _refusal(model) for name, model in sorted(models.items())}
    servable = {name: models[name] for name, why in reasons.items() if why is None}
    return servable, {name: why for name, why in reasons.items() if why is not None}


def _refusal(model: Model) -> str | None:
    try:
        require_servable(model)
    except ModelError as error:
        return str(error)
    return None


def _default(models: Mapping[str, Model], wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    return PREFERRED_MODEL if PREFERRED_MODEL in models else next(iter(models), PREFERRED_MODEL)


def _first(models: Mapping[str, Model]) -> dict[str, str]:
    """Return the first model by name for each task."""
    return {model.card.task: name for name, model in sorted(models.items(), reverse=True)}
