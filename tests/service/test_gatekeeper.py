"""Who is let in: the rule itself, without a transport."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from service.errors import Code, GatewayError
from service.security import keys
from service.security.gatekeeper import Gatekeeper
from service.security.keys import Key, Scope


class Gate:
    """A gatekeeper over keys that a test changes, with clocks that it turns."""

    def __init__(self) -> None:
        self.known: dict[str, Key] = {}
        self.counts: list[tuple[str, str]] = []
        self.seconds = 0.0
        self.now = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
        self.keeper = Gatekeeper(
            lambda: self.known,
            lambda key, outcome: self.counts.append((key, outcome)),
            lambda: self.seconds,
            lambda: self.now,
        )

    def add(self, name: str = "ann", **chosen: Any) -> str:
        secret = keys.generate()
        key = Key(id=name, sha256=keys.fingerprint(secret), **chosen)
        self.known[key.sha256] = key
        return secret

    def refusal(
        self, presented: str | None, scope: Scope = Scope.INFER, model: str | None = None, **more
    ) -> GatewayError:
        with pytest.raises(GatewayError) as raised:
            self.keeper.admit(presented, scope, model, **more)
        return raised.value


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_key_is_let_in_under_its_name(gate: Gate):
    first, second = gate.add("ann"), gate.add("bob")

    assert gate.keeper.admit(first, Scope.INFER).id == "ann"
    assert gate.keeper.admit(second, Scope.MODELS, "resnet").id == "bob"
    assert gate.counts == [("ann", "admitted"), ("bob", "admitted")]


@pytest.mark.parametrize("presented", [None, "", "guess", "g" * 100_000, "sch\udcfcssel", "é"])
def test_no_key_and_an_unknown_key_are_not_let_in(gate: Gate, presented: str | None):
    gate.add()

    refusal = gate.refusal(presented)

    assert refusal.code is Code.UNAUTHENTICATED
    assert gate.counts == [("", "unauthenticated")]


def test_the_fingerprint_in_the_file_opens_nothing(gate: Gate):
    secret = gate.add()

    assert gate.refusal(keys.fingerprint(secret)).code is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    "change", [lambda k: k[:-1], lambda k: k + "A", lambda k: f" {k}", str.swapcase]
)
def test_only_the_whole_key_opens(gate: Gate, change):
    assert gate.refusal(change(gate.add())).code is Code.UNAUTHENTICATED


def test_a_revoked_key_is_not_let_in_any_more(gate: Gate):
    secret = gate.add()
    gate.keeper.admit(secret, Scope.INFER)
    gate.known.clear()

    assert gate.refusal(secret).code is Code.UNAUTHENTICATED


def test_a_key_is_valid_to_the_end_of_its_last_day(gate: Gate):
    secret = gate.add(not_after="2026-06-01")
    gate.now = datetime(2026, 6, 1, 23, 59, 59, tzinfo=timezone.utc)
    gate.keeper.admit(secret, Scope.INFER)
    gate.now += timedelta(seconds=1)

    refusal = gate.refusal(secret)

    assert refusal.code is Code.UNAUTHENTICATED
    assert "until 2026-06-01" in refusal.detail


@pytest.mark.parametrize("scope", Scope)
def test_a_key_is_for_its_scopes_only(gate: Gate, scope: Scope):
    secret = gate.add(scopes=[scope])

    gate.keeper.admit(secret, scope)
    for other in set(Scope) - {scope}:
        refusal = gate.refusal(secret, other)
        assert refusal.code is Code.FORBIDDEN
        assert scope.value in refusal.detail
        assert other.value in refusal.detail


def test_a_key_for_some_models_has_to_name_one_of_them(gate: Gate):
    secret = gate.add(models=["a", "b"])

    gate.keeper.admit(secret, Scope.INFER, "a")
    gate.keeper.admit(secret, Scope.MODELS, "b")
    # The list of them all names none.
    gate.keeper.admit(secret, Scope.MODELS)
    for scope in (Scope.INFER, Scope.MODELS):
        assert "a, b" in gate.refusal(secret, scope, "c").detail
    assert gate.refusal(secret, Scope.INFER).code is Code.FORBIDDEN
    assert gate.refusal(secret, Scope.INFER, "").code is Code.FORBIDDEN


def test_a_key_has_its_rate_and_hears_when_to_come_back(gate: Gate):
    secret, other = gate.add(rate=0.5, burst=2), gate.add("bob", rate=0.5)
    for _ in range(2):
        gate.keeper.admit(secret, Scope.INFER)

    refusal = gate.refusal(secret)

    assert (refusal.code, refusal.retry_after_s) == (Code.RATE_LIMITED, 2)
    gate.keeper.admit(other, Scope.INFER)
    gate.seconds += 2
    gate.keeper.admit(secret, Scope.INFER)


def test_a_rate_that_changes_in_the_file_counts_at_once(gate: Gate):
    secret = gate.add(rate=0.001)
    gate.keeper.admit(secret, Scope.INFER)
    assert gate.refusal(secret).code is Code.RATE_LIMITED
    (fingerprint,) = gate.known
    gate.known[fingerprint] = Key(id="ann", sha256=fingerprint)

    for _ in range(10):
        gate.keeper.admit(secret, Scope.INFER)


def test_a_quota_counts_requests_to_networks_that_were_let_in(gate: Gate):
    secret = gate.add(quota=2, rate=1, burst=5, models=["a"])
    for _ in range(2):
        gate.refusal(secret, Scope.INFER, "b")
        gate.keeper.admit(secret, Scope.INFER, "a")

    refusal = gate.refusal(secret, Scope.INFER, "a")

    assert (refusal.code, refusal.retry_after_s) == (Code.QUOTA_EXCEEDED, 12 * 3600)
    gate.keeper.admit(secret, Scope.MODELS)
    gate.now += timedelta(hours=12)
    gate.seconds += 5
    gate.keeper.admit(secret, Scope.INFER, "a")


def test_what_the_rate_refuses_takes_nothing_from_the_quota(gate: Gate):
    secret = gate.add(quota=2, rate=1)
    gate.keeper.admit(secret, Scope.INFER)
    for _ in range(5):
        assert gate.refusal(secret).code is Code.RATE_LIMITED
    gate.seconds += 1

    gate.keeper.admit(secret, Scope.INFER)


def test_a_new_key_under_an_old_name_begins_no_second_day(gate: Gate):
    gate.keeper.admit(gate.add(quota=1), Scope.INFER)
    gate.known.clear()

    assert gate.refusal(gate.add(quota=1)).code is Code.QUOTA_EXCEEDED


def test_guessing_is_slowed_for_one_address_and_harms_no_holder_of_a_key(gate: Gate):
    secret = gate.add()

    codes = [gate.refusal("guess", client="10.0.0.1").code for _ in range(11)]

    assert codes == [Code.UNAUTHENTICATED] * 10 + [Code.RATE_LIMITED]
    assert gate.refusal("guess", client="10.0.0.1").retry_after_s == 1
    assert gate.refusal("guess", client="10.0.0.2").code is Code.UNAUTHENTICATED
    gate.keeper.admit(secret, Scope.INFER, client="10.0.0.1")


def test_every_request_is_counted_once_by_how_it_ended(gate: Gate):
    secret = gate.add(scopes=["infer"], rate=1, quota=5)
    gate.keeper.admit(secret, Scope.INFER)
    gate.refusal(secret)
    gate.refusal(secret, Scope.METRICS)
    gate.refusal("guess")

    assert gate.counts == [
        ("ann", "admitted"),
        ("ann", "rate_limited"),
        ("ann", "forbidden"),
        ("", "unauthenticated"),
    ]


def test_no_refusal_repeats_what_was_sent(gate: Gate):
    gate.add()

    assert "hunter2" not in gate.refusal("hunter2").detail
