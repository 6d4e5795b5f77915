"""JSON into the dataclasses of :mod:`gpusq.answers` and back. Knows no field by name.

Fields that a newer service adds are left out; one that is missing or of another type is an error.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from gpusq.errors import AnswerError

T = TypeVar("T")
_hints = functools.cache(get_type_hints)


def read(kind: type[T], value: object) -> T:
    """Return a value as one of the answers.

    Args:
        kind: A dataclass.
        value: What JSON became.

    Raises:
        AnswerError: It is something else; the message says where.
    """
    return cast("T", _read(kind, value, "the answer"))


def plain(value: Any) -> Any:
    """Return an answer as JSON has it: bytes in base64, and without what is None.

    Args:
        value: A dataclass, or what stands in one.
    """
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(inner) for name, inner in pairs if inner is not None}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


def _read(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (member for member in get_args(kind) if member is not type(None))
        return None if value is None else _read(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return _tuple(get_args(kind), value, where)
    if origin is Mapping and isinstance(value, dict):
        return {name: _read(get_args(kind)[1], inner, where) for name, inner in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, where)
    return _scalar(kind, value, where)


def _tuple(kinds: tuple[Any, ...], values: list[object], where: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        return tuple(_read(kinds[0], value, where) for value in values)
    if len(kinds) != len(values):
        raise _unexpected(f"{len(kinds)} values", values, where)
    return tuple(_read(kind, value, where) for kind, value in zip(kinds, values, strict=True))


def _dataclass(kind: Any, value: dict[str, object], where: str) -> Any:
    hints, found = _hints(kind), {}
    for entry in dataclasses.fields(kind):
        if entry.name in value:
            found[entry.name] = _read(hints[entry.name], value[entry.name], entry.name)
        elif type(None) in get_args(hints[entry.name]):
            found[entry.name] = None
        elif entry.default is dataclasses.MISSING:
            raise AnswerError(
                f"Expected {entry.name!r} in {where}, it is not there. Does another version of "
                "the service answer, or something else?"
            )
    return kind(**found)


def _scalar(kind: Any, value: object, where: str) -> Any:
    if kind is float and type(value) in (int, float):
        return _float(cast("float", value), where)
    if kind is bytes and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise _unexpected("base64", value, where) from None
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise _unexpected(getattr(kind, "__name__", str(kind)), value, where)


def _float(value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _unexpected("float", value, where) from None


def _unexpected(expected: str, value: object, where: str) -> AnswerError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return AnswerError(
        f"Expected {expected} in {where}, got {shown}. Does another version of the service "
        "answer, or something else?"
    )
