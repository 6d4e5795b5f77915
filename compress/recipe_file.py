"""Recipes as people write them: the only reader of YAML in the project."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from compress.errors import RecipeError
from compress.recipe import Recipe


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: The YAML file.
        changes: ``KEY=VALUE`` with a dotted key and a YAML value, applied in order.

    Raises:
        RecipeError: No such file, not YAML, or a value that does not fit; every fault is named.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    for change in changes:
        _apply(plain, change)
    return _checked(plain, str(path))


def _checked(plain: Any, source: str) -> Recipe:
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {_said(fault)}"
            for fault in error.errors()
        )
        raise RecipeError(f"{source}: {faults}") from error


def _said(fault: Any) -> str:
    """Return what is wrong, in our words where pydantic speaks of its own."""
    if fault["type"] != "extra_forbidden":
        return str(fault["msg"]).removeprefix("Value error, ")
    *parents, key = fault["loc"]
    close = difflib.get_close_matches(str(key), _keys(parents), n=1)
    return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _keys(parents: Sequence[Any]) -> list[str]:
    """Return the keys that a section of the recipe has."""
    part: type[BaseModel] = Recipe
    for name in parents:
        annotation = part.model_fields[name].annotation
        choices = (annotation, *typing.get_args(annotation))
        part = next(one for one in choices if isinstance(one, type) and issubclass(one, BaseModel))
    return list(part.model_fields)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return a recipe with some lines changed, as ``load`` changes them.

    Raises:
        RecipeError: The changed recipe does not fit together.
    """
    plain = recipe.model_dump(mode="json")
    for change in changes:
        _apply(plain, change)
    return _checked(plain, f"{recipe.name} with {' '.join(changes)}")


def _apply(plain: Any, change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals:
        raise RecipeError(f"expected KEY=VALUE, such as prune.criterion=magnitude, got {change!r}")
    *parents, last = key.split(".")
    part = plain
    for parent in parents:
        part = part.setdefault(parent, {}) if isinstance(part, dict) else None
    if not isinstance(part, dict):
        raise RecipeError(f"{change!r}: the recipe has no section {'.'.join(parents)!r}")
    try:
        part[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{change!r} is not a YAML value: {error}") from error
