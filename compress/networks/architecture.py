"""From keyword arguments of a recipe to a configuration of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from compress.errors import RecipeError

# What transformers raises for values that make no network.
_UNFIT = (LookupError, TypeError, ValueError, RuntimeError, ZeroDivisionError, StrictDataclassError)


def refuse_unknown(given: Mapping[str, Any], config: PreTrainedConfig) -> None:
    """Refuse keyword arguments that a configuration does not have.

    Raises:
        RecipeError: Names them.
    """
    if unknown := sorted(key for key in given if not hasattr(config, key)):
        kind = type(config).__name__
        raise RecipeError(f"network.architecture: {kind} has no {', '.join(unknown)}")


def part_of(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the keyword arguments of one part, such as the backbone, out of those of the whole.

    Raises:
        RecipeError: Something else stands there.
    """
    found = settings.pop(name, {})
    if not isinstance(found, dict):
        raise RecipeError(f"network.architecture.{name}: expected keywords, got {found!r}")
    return dict(found)


@contextmanager
def building() -> Iterator[None]:
    """Say of what goes wrong inside that the recipe's architecture is the reason.

    Raises:
        RecipeError: With what transformers says.
    """
    try:
        yield
    except _UNFIT as error:
        raise RecipeError(f"network.architecture cannot be built: {error}") from error
