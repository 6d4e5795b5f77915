"""Decides who may ask: one rule for every transport, which only finds the key and tells the answer.

A request passes five questions in turn: is the key known and still valid, is it for this scope,
for this model, within its rate, within its quota. What is refused takes nothing from the quota.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from service.errors import Code, GatewayError
from service.security import keys
from service.security.keys import Key, Scope
from service.security.limits import Attempts, Bucket, Day

NOBODY: Final = ""
ADMITTED: Final = "admitted"
_FAILURES_A_SECOND: Final = 10
_SEND_ONE: Final = "Send one as 'Authorization: Bearer KEY'."


@dataclass(frozen=True)
class Principal:
    """Whoever holds a key.

    Args:
        id: The key's name in the file.
    """

    id: str


class _Use:
    """What one key has used."""

    def __init__(self) -> None:
        self.bucket: Bucket | None = None
        self.day = Day()


class Gatekeeper:
    """Admits requests by their keys.

    Args:
        known: Gives the keys of this moment by fingerprint.
        count: Told the id of a key, or nobody's, and how a request of it ended here.
        clock: Seconds, never going back.
        now: The time of day, with its time zone.
    """

    def __init__(
        self,
        known: Callable[[], Mapping[str, Key]],
        count: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._known = known
        self._count = count
        self._clock = clock
        self._now = now
        self._attempts = Attempts(_FAILURES_A_SECOND, _FAILURES_A_SECOND, clock)
        # By id, so that a key that is replaced in the file does not begin a second day.
        self._uses: dict[str, _Use] = {}

    def admit(
        self, presented: str | None, scope: Scope, model: str | None = None, client: str = ""
    ) -> Principal:
        """Let a request through.

        Args:
            presented: The key that came with it, if any.
            scope: What it wants to do.
            model: The model that it names, if it names one.
            client: Where it comes from; counts for failures only.

        Raises:
            GatewayError: UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED or QUOTA_EXCEEDED.
        """
        return self.enter(self.identify(presented, scope, client), scope, model)

    def identify(self, presented: str | None, scope: Scope, client: str = "") -> Key:
        """Ask only what a request can be asked before its message says which model it names.

        Whoever is identified has to :meth:`enter` too; arguments and errors as for :meth:`admit`.

        Raises:
            GatewayError: UNAUTHENTICATED, FORBIDDEN or RATE_LIMITED.
        """
        with self._counted_refusal() as who:
            key = self._authenticated(presented, client)
            who.append(key.id)
            _require_scope(key, scope)
        return key

    def enter(self, key: Key, scope: Scope, model: str | None) -> Principal:
        """Ask the rest, and take one from the rate and the quota.

        Raises:
            GatewayError: FORBIDDEN, RATE_LIMITED or QUOTA_EXCEEDED.
        """
        with self._counted_refusal() as who:
            who.append(key.id)
            _require_model(key, scope, model)
            self._require_within(key, scope)
        self._count(key.id, ADMITTED)
        return Principal(key.id)

    @contextmanager
    def _counted_refusal(self) -> Iterator[list[str]]:
        who: list[str] = []
        try:
            yield who
        except GatewayError as error:
            self._count(who[0] if who else NOBODY, error.code.value)
            raise

    def _authenticated(self, presented: str | None, client: str) -> Key:
        key = None if presented is None else keys.find(self._known(), presented)
        today = self._now().astimezone(timezone.utc).date()
        if key is not None and (key.not_after is None or today <= key.not_after):
            return key
        if presented is not None and (wait_s := self._attempts.wait_s(client)):
            raise GatewayError(
                Code.RATE_LIMITED,
                f"Too many requests from this address had no valid API key. Wait {wait_s} s, then "
                "send one that is valid.",
                retry_after_s=wait_s,
            )
        if key is not None:
            detail = f"The API key {key.id!r} was valid until {key.not_after}. Ask for a new one."
        elif presented is None:
            detail = f"Expected an API key, got none. {_SEND_ONE}"
        else:
            detail = "The API key is unknown, or was revoked. Ask the operator for one."
        raise GatewayError(Code.UNAUTHENTICATED, detail)

    def _require_within(self, key: Key, scope: Scope) -> None:
        use = self._uses.setdefault(key.id, _Use())
        if (wait_s := self._rate_wait_s(key, use)) > 0:
            raise GatewayError(
                Code.RATE_LIMITED,
                f"The API key {key.id!r} may send {key.rate:g} requests a second, "
                f"{key.most_at_once} at once. Try again in {wait_s} s.",
                retry_after_s=wait_s,
            )
        if key.quota is None or scope is not Scope.INFER:
            return
        if (wait_s := use.day.wait_s(key.quota, self._now())) > 0:
            raise GatewayError(
                Code.QUOTA_EXCEEDED,
                f"The API key {key.id!r} has used its quota of {key.quota} a day. "
                "The next day begins at midnight UTC.",
                retry_after_s=wait_s,
            )

    def _rate_wait_s(self, key: Key, use: _Use) -> int:
        if key.rate is None:
            use.bucket = None
            return 0
        now_s = self._clock()
        bucket = use.bucket
        if bucket is None or (bucket.rate, bucket.burst) != (key.rate, key.most_at_once):
            bucket = use.bucket = Bucket(key.rate, key.most_at_once, now_s)
        return bucket.wait_s(now_s)


def _require_scope(key: Key, scope: Scope) -> None:
    if scope not in key.scopes:
        has = ", ".join(sorted(own.value for own in key.scopes))
        raise GatewayError(
            Code.FORBIDDEN,
            f"The API key {key.id!r} is for {has}, this needs {scope.value}. Use another key.",
        )


def _require_model(key: Key, scope: Scope, model: str | None) -> None:
    if key.models is None or model in key.models:
        return
    if model is not None or scope is Scope.INFER:
        came = "none was named" if model is None else f"{model!r} was asked"
        raise GatewayError(
            Code.FORBIDDEN,
            f"The API key {key.id!r} is for the models {', '.join(key.models)}, {came}. "
            "Name one of those.",
        )
