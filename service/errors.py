"""The errors of the online half, one tree. No transport is named here.

ServiceError (Exception)
├── StartError      the service cannot start: one line on stderr, exit code 2
├── KeysError       the file of API keys cannot be read or changed
├── ModelError      one model cannot be loaded or run; the others can
│   └── VersionGoneError  its version was replaced while a request was on its way
├── GoneError       whoever asked went away; nobody waits for an answer
└── GatewayError    one request has no answer; `code` says why, each transport has a table for it
    └── WrongTaskError  the model is for another task; `task` says for which
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from contract.errors import ImageError, ImageFault

_MAX_SHOWN: Final = 40


class ServiceError(Exception):
    """Anything this package raises on purpose."""


class StartError(ServiceError):
    """The service cannot start with these settings."""


class KeysError(ServiceError):
    """The file of API keys cannot be read, or not changed as asked."""


class ModelError(ServiceError):
    """A model of the repository cannot be loaded or run."""


class VersionGoneError(ModelError):
    """The version that was asked is no longer served; a newer one may be."""


class GoneError(ServiceError):
    """Whoever asked went away."""


class Code(str, Enum):
    """Why a request has no answer, in words that no transport owns."""

    BAD_REQUEST = "bad_request"
    INVALID_ARGUMENT = "invalid_argument"
    UNSUPPORTED_MEDIA = "unsupported_media"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    BAD_IMAGE = "bad_image"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    UNKNOWN_MODEL = "unknown_model"
    WRONG_TASK = "wrong_task"
    MODEL_UNAVAILABLE = "model_unavailable"
    EXECUTOR_UNAVAILABLE = "executor_unavailable"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    OVERLOADED = "overloaded"
    FETCH_FAILED = "fetch_failed"
    READ_TIMEOUT = "read_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class GatewayError(ServiceError):
    """One request has no answer.

    Args:
        code: The kind of failure.
        detail: What was expected, what came, what to do.
        retry_after_s: When trying again may help; None where it will not.
    """

    def __init__(self, code: Code, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class WrongTaskError(GatewayError):
    """A model was asked to do what another kind of model does.

    Args:
        detail: What was expected, what came, what to do.
        task: What the model does.
    """

    def __init__(self, detail: str, task: str) -> None:
        super().__init__(Code.WRONG_TASK, detail)
        self.task = task


def shown(came: object) -> str:
    """Return what a client sent as a message quotes it: not more of it than helps.

    >>> shown("resnet"), shown("x" * 100) == repr("x" * 40 + "…")
    ("'resnet'", True)
    """
    text = str(came)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")


IMAGE_FAULTS: Final = {
    ImageFault.EMPTY: Code.BAD_IMAGE,
    ImageFault.DAMAGED: Code.BAD_IMAGE,
    ImageFault.UNSUPPORTED_FORMAT: Code.UNSUPPORTED_MEDIA,
    ImageFault.TOO_MANY_PIXELS: Code.TOO_MANY_PIXELS,
}


def of_image(error: ImageError) -> GatewayError:
    """Say in this package's words how bytes failed to become a picture."""
    return GatewayError(IMAGE_FAULTS[error.fault], str(error))
