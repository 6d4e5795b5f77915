"""API keys as their file has them: who holds one, and what it is for. The file has no key."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from datetime import date
from enum import Enum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import KeysError

# Lets people and scanners of leaked secrets see what it is.
PREFIX: Final = "gpusq_"
_BYTES: Final = 32
# No key that was made here is longer; hashing what is longer would be work for nothing.
_MAX_LENGTH: Final = 256
_MAX_RATE: Final = 1_000_000
_MAX_COUNT: Final = 1_000_000_000
_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Scope(str, Enum):
    """What a key can be for."""

    INFER = "infer"
    MODELS = "models"
    METRICS = "metrics"


class Key(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=_ID)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = (Scope.INFER, Scope.MODELS)
    # None: every model.
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    rate: float | None = Field(None, gt=0, le=_MAX_RATE, allow_inf_nan=False)
    burst: int | None = Field(None, ge=1, le=_MAX_COUNT)
    quota: int | None = Field(None, ge=1, le=_MAX_COUNT)
    not_after: date | None = None

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> Key:
        if self.burst is not None and self.rate is None:
            raise ValueError("a burst needs a rate")
        return self

    @property
    def most_at_once(self) -> int:
        """How many requests a pause saves up; a second's worth if the file does not say."""
        return self.burst or max(1, math.ceil(self.rate or 1))


class KeysFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()


def generate() -> str:
    """Return a new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def fingerprint(key: str) -> str:
    """Return what the file keeps of a key: the SHA-256 of its text, in hexadecimal digits.

    A slow hash protects what people think up, because that can be guessed. A key of 256 random
    bits cannot, however fast the hash is, and a slow one would let strangers spend our time.

    >>> fingerprint("abc")[:16]
    'ba7816bf8f01cfea'
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def find(keys: Mapping[str, Key], presented: str) -> Key | None:
    """Return the entry of a presented key.

    Args:
        keys: By fingerprint.
        presented: What a client sent.
    """
    if len(presented) > _MAX_LENGTH:
        return None
    # How long a dict looks may tell how a fingerprint begins that is in the file. To use that,
    # someone would have to find keys whose SHA-256 begin alike, bit after bit up to 256, and would
    # then know a fingerprint, which opens nothing. The key itself is compared nowhere.
    return keys.get(fingerprint(presented))


def presented(authorization: str | None, api_key: str | None) -> str | None:
    """Return the key that a request brings, if it brings one.

    Args:
        authorization: The header of that name; what is no bearer's may be meant for a proxy.
        api_key: The header X-API-Key, where both are given the lesser one.

    >>> presented("Bearer abc", "def"), presented("Basic YTpi", "def"), presented("", None)
    ('abc', 'def', None)
    """
    scheme, _, bearer = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    return api_key


def parse(content: bytes) -> KeysFile:
    """Read the content of a file.

    Raises:
        KeysError: No JSON, not of this form, or two entries with one id or one key.
    """
    try:
        file = KeysFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise KeysError(
            f"{place}: {first['msg']}. Correct it; docs/security.md has the form."
        ) from error
    for field in ("id", "sha256"):
        values = [getattr(key, field) for key in file.keys]
        if len(set(values)) < len(values):
            repeated = next(value for value in values if values.count(value) > 1)
            raise KeysError(f"expected every {field} once, got {repeated!r} twice. Remove one.")
    return file
