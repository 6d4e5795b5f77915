"""What the gateway asks of every task, so that it has one way for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from contract.labels import LabelSet
from contract.view import View

OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")

# What a network gives for one picture, by name, the batch axis first.
Outputs = Mapping[str, npt.NDArray[Any]]
# The type and shape of each output, by name, the batch axis first.
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Asked(Generic[OptionsT]):
    """What outputs are read with.

    Args:
        labels: The names behind the classes.
        view: What of the picture the network saw.
        options: What the request chose.
        given_up: Says whether nobody waits for the answer any more, for what takes long.
    """

    labels: LabelSet
    view: View
    options: OptionsT
    given_up: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Seen:
    """What a network gave for one picture, and what it means.

    Args:
        outputs: Its tensors.
        view: What of the picture it saw.
        labels: The names behind its classes.
    """

    outputs: Outputs
    view: View
    labels: LabelSet


@dataclass(frozen=True)
class Task(Generic[OptionsT, ResultT]):
    """How the outputs of one kind of network are read.

    Args:
        name: As cards call it.
        require_outputs: Raises ModelError where a network has other outputs.
        predict: Makes the prediction for one picture; raises GatewayError where the outputs are
            not what the contract says, or the options ask for what the network does not give.
        compare: How far two networks agree about one picture: measures by name, 0 to 1.
        quick: Whether that takes less than handing it to another thread would.
    """

    name: str
    require_outputs: Callable[[Shapes, LabelSet], None]
    predict: Callable[[Outputs, Asked[OptionsT]], ResultT]
    compare: Callable[[Seen, Seen], dict[str, float]] = lambda _one, _other: {}
    quick: bool = False
