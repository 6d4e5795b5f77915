"""The errors of the client, one tree.

GpusqError (Exception)
├── ArgumentError (ValueError)   the client cannot be made of these arguments; nothing was sent
├── PictureError                 what was given is no picture that can be sent; nothing was sent
├── ConnectionFailedError        the service was not reached, or the connection broke
├── OutOfTimeError               no answer within `timeout_s`
├── RequestRefusedError          the service answered with a problem; `code` says which
└── AnswerError                  what answered does not speak this API
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class GpusqError(Exception):
    """Anything this package raises on purpose; `code` is stable."""

    code = "failed"


class ArgumentError(GpusqError, ValueError):
    """The client cannot be made of these arguments."""

    code = "wrong_argument"


class PictureError(GpusqError):
    """What was given is no picture that can be sent."""

    code = "unreadable_picture"


class ConnectionFailedError(GpusqError):
    """The service was not reached, or the connection broke before the whole answer had come."""

    code = "connection_failed"


class OutOfTimeError(GpusqError):
    """There was no answer within the time that the client has for a call."""

    code = "out_of_time"


class AnswerError(GpusqError):
    """What answered does not speak this API."""

    code = "unexpected_answer"


@dataclass(frozen=True)
class Problem:
    """Why a request has no answer, in the words of the service.

    Args:
        status: HTTP's number.
        code: Stable; decide by it.
        detail: For people: what was expected, what came, what to do.
        retry_after_s: When trying again may help; None where the answer does not say.
        request_id: As the service's log has it; None where something else answered.
        timings_ms: Milliseconds of the stages that were reached, and `total`.
    """

    status: int
    code: str
    detail: str
    retry_after_s: float | None = None
    request_id: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)


class RequestRefusedError(GpusqError):
    """The service answered with a problem.

    Args:
        problem: Which; each of its fields is an attribute of the error too.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = problem.status
        self.code = problem.code
        self.detail = problem.detail
        self.retry_after_s = problem.retry_after_s
        self.request_id = problem.request_id
        self.timings_ms = problem.timings_ms

    def __str__(self) -> str:
        return self.detail
