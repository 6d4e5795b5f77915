"""Which models can be asked, which cannot and why, and which one a request means."""

from __future__ import annotations

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
from service.tasks import classify, detect, segment
from service.tasks.task import Task

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
    """

    def __init__(self, executor: Executor, default_model: str | None, metrics: Metrics) -> None:
        self._executor = executor
        self._wanted = default_model
        self._metrics = metrics
        self.models: Mapping[str, Model] = {}
        self.unavailable: Mapping[str, str] = {}
        self.default = default_model or PREFERRED_MODEL
        self.defaults: Mapping[str, str] = {}
        self.take_up()

    def take_up(self) -> None:
        """Read the executor's models again."""
        self.models, refused = _servable(self._executor.models)
        self.unavailable = {**self._executor.unavailable, **refused}
        known = {*self.models, *self.unavailable}
        # A default that fails for a while stays the default, so that readiness speaks of it.
        if self.default not in known:
            self.default = _default(self.models, self._wanted)
        kept = {task: name for task, name in self.defaults.items() if name in self.unavailable}
        self.defaults = {**_defaults(self.models, self.default), **kept}
        self._metrics.take_up(self.models, self.unavailable, self._executor.behind)

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
        if model not in self.models:
            known = ", ".join(self.models)
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


def _defaults(models: Mapping[str, Model], default: str) -> dict[str, str]:
    """Return which model answers for each task: the default one, else the first by name."""
    first = {model.card.task: name for name, model in sorted(models.items(), reverse=True)}
    chosen = {models[default].card.task: default} if default in models else {}
    return {**first, **chosen}
