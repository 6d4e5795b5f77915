"""The query of a request for labels, and what is wrong with one, in words for who sent it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from service.errors import Code, GatewayError
from service.settings import MAX_TOP_K

_MAX_SHOWN: Final = 40


class ClassifyQuery(BaseModel):
    """What may stand behind the question mark; anything else is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, description="A name from /v1/models; the default model without it."
    )
    top_k: int | None = Field(
        None,
        ge=1,
        le=MAX_TOP_K,
        description="How many classes to name. A model with fewer classes names all of them.",
    )


_EXPECTED: Final = {"model": "a name", "top_k": f"a whole number from 1 to {MAX_TOP_K}"}


def refusal(faults: Sequence[Mapping[str, Any]]) -> GatewayError:
    """Say what is wrong with a query.

    Args:
        faults: What pydantic found.
    """
    return GatewayError(Code.INVALID_ARGUMENT, " ".join(map(_say, faults)))


def _say(fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][-1])
    if name in _EXPECTED:
        came = _shown(fault["input"])
        return f"{name}: expected {_EXPECTED[name]}, got {came}. Correct it, or leave it out."
    near = difflib.get_close_matches(name, _EXPECTED, n=1)
    mend = f"Did you mean {near[0]}?" if near else "Leave it out."
    return f"There is no parameter {_shown(name)}; there are {' and '.join(_EXPECTED)}. {mend}"


def _shown(came: object) -> str:
    text = str(came)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
