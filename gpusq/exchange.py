"""How one call comes to an answer: attempts, waits between them, and when to give up.

It sends nothing and sleeps nowhere. Whoever drives it takes each step and says what came of it,
so that the synchronous and the asynchronous client share all of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Generic, TypeAlias, TypeVar

from gpusq.calls import Call, Reply, problem
from gpusq.errors import ConnectionFailedError, GpusqError, OutOfTimeError, RequestRefusedError

T = TypeVar("T")

DEADLINE_HEADER: Final = "X-Request-Timeout"
# The longest wait doubles with every attempt. A service restarts within seconds.
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0
# The service refuses 0.
_LEAST_TOLD_S: Final = 0.001
_PASSING: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


@dataclass(frozen=True)
class Policy:
    """How long a call may take, and how often it is tried again.

    Args:
        timeout_s: From the call to its answer, every attempt and wait included.
        retries: Attempts after the first, at most.
    """

    timeout_s: float
    retries: int


@dataclass(frozen=True)
class Send:
    """Send the request, and take no longer than this; then say what came back.

    Args:
        headers: Of this attempt.
        timeout_s: What is left of the call's time.
    """

    headers: Mapping[str, str]
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    """Sleep that long."""

    seconds: float


@dataclass(frozen=True)
class Done(Generic[T]):
    """The answer has come."""

    answer: T


@dataclass(frozen=True)
class Lost:
    """No reply came.

    Args:
        reason: For people.
        in_time: False where the time given was up.
        passing: Whether another attempt may do better.
    """

    reason: str
    in_time: bool = True
    passing: bool = True


Outcome: TypeAlias = "Reply | Lost | None"


@dataclass(frozen=True)
class _Failure:
    """What one attempt came to.

    Args:
        error: What to raise if it was the last.
        wait_s: As the service says it; None where it does not.
        passing: Whether another attempt may do better.
    """

    error: GpusqError
    wait_s: float | None
    passing: bool


def exchange(call: Call[T], policy: Policy) -> Generator[Send | Wait | Done[T], Outcome, None]:
    """Yield the steps to an answer, the last of which is :class:`Done`.

    All calls are pure, so that each may be sent again whatever became of it. Only what may pass is:
    a lost connection, and a refusal that says when to come back or that a proxy sent. A wait that
    would end after the deadline is not begun.

    Raises:
        GpusqError: There is no answer; what the last attempt came to.
    """
    ends = time.monotonic() + policy.timeout_s
    last: GpusqError | None = None
    for attempt in range(policy.retries + 1):
        left_s = ends - time.monotonic()
        if left_s <= 0:
            break
        told = f"{max(left_s, _LEAST_TOLD_S):.3f}"
        said = yield Send({**call.headers, DEADLINE_HEADER: told}, left_s)
        if isinstance(said, Reply) and call.is_answer(said):
            yield Done(call.read(said))
            return
        failure = _failure(said, policy)
        last = failure.error
        wait_s = _backoff_s(attempt) if failure.wait_s is None else failure.wait_s
        is_over = not failure.passing or attempt == policy.retries
        if is_over or wait_s >= ends - time.monotonic():
            raise failure.error
        yield Wait(wait_s)
    raise OutOfTimeError(_out_of_time(policy)) from last


def _failure(said: Outcome, policy: Policy) -> _Failure:
    if isinstance(said, Reply):
        found, ours = problem(said)
        # The service says when to come back wherever that may help.
        passing = said.status in _PASSING and not (ours and found.retry_after_s is None)
        return _Failure(RequestRefusedError(found), found.retry_after_s, passing)
    if not isinstance(said, Lost):
        raise TypeError(f"Expected what came of sending, got {said!r}.")
    if not said.in_time:
        return _Failure(OutOfTimeError(_out_of_time(policy)), None, passing=False)
    return _Failure(ConnectionFailedError(said.reason), None, said.passing)


def _out_of_time(policy: Policy) -> str:
    return (
        f"There was no answer within {policy.timeout_s:g} s. "
        "Look whether the service is reached, or allow more with timeout_s."
    )


def _backoff_s(attempt: int) -> float:
    # Anywhere up to the longest, so that clients refused together do not come back together.
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))  # noqa: S311
