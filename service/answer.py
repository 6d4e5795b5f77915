"""What comes into the gateway, and what goes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.executors.executor import Outputs

T = TypeVar("T")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Source(Generic[T]):
    """Where what a request brings comes from.

    Args:
        read: Awaited once, after admission.
        most_bytes: How many bytes will come at most.
    """

    read: Callable[[], Awaitable[T]]
    most_bytes: int


@dataclass(frozen=True)
class Answer(Generic[ResultT]):
    """The answer to one picture.

    Args:
        model: Who answered.
        version: Which version of it.
        result: The prediction of the task.
        width_px: Width of the upright picture.
        height_px: Its height.
        timings_ms: Milliseconds by stage, and `total`.
    """

    model: str
    version: int
    result: ResultT
    width_px: int
    height_px: int
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class Inferred:
    """What a network gave for one batch.

    Args:
        model: Which network.
        version: Which version of it.
        outputs: Its tensors by name, the batch axis first.
        timings_ms: Milliseconds by stage, and `total`.
    """

    model: str
    version: int
    outputs: Outputs
    timings_ms: dict[str, float]
