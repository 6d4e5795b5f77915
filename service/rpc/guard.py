"""Asks for the key of a call before its message is read. What is not open is closed."""

from __future__ import annotations

from typing import Any, Final

from service.observe import access
from service.rpc.call import Call
from service.rpc.edge import MessageCheck
from service.security import keys
from service.security.gatekeeper import Gatekeeper
from service.security.keys import Scope

_HEALTH: Final = "/grpc.health.v1.Health/"
_OPEN: Final = frozenset(
    {
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)
# By the name of the method alone: what is not here asks a network, or may.
_MODELS: Final = frozenset(
    {
        *("ListModels", "ServerReflectionInfo", "RepositoryIndex"),
        *("ServerMetadata", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics"),
    }
)
# Where messages name a model; the first that a message has.
_NAMES: Final = ("model", "model_name", "name")


class KeyGuard:
    """Lets calls through by their keys.

    Args:
        gatekeeper: Knows the keys.
    """

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    async def __call__(self, call: Call) -> MessageCheck | None:
        """Let a call through, or all but what its message decides.

        Raises:
            GatewayError: As from :meth:`Gatekeeper.admit`.
        """
        scope = scope_of(call.method)
        if scope is None:
            return None
        given = [call.metadata.get(name) for name in ("authorization", "x-api-key")]
        texts = [value if isinstance(value, str) else None for value in given]
        key = self._gatekeeper.identify(
            keys.presented(*texts), scope, access.address(call.peer) or ""
        )
        if key.models is not None:
            return lambda message: self._enter(key, scope, message)
        self._gatekeeper.enter(key, scope, None)
        return None

    def _enter(self, key: keys.Key, scope: Scope, message: Any) -> None:
        self._gatekeeper.enter(key, scope, _model(message))


def scope_of(method: str) -> Scope | None:
    """Return what a call needs a key for; None where it needs none.

    >>> scope_of("/gpusq.v1.Vision/Classify").value
    'infer'
    >>> scope_of("/gpusq.v1.Vision/ListModels").value
    'models'
    >>> scope_of("/grpc.health.v1.Health/Check")
    """
    if method.startswith(_HEALTH) or method in _OPEN:
        return None
    return Scope.MODELS if method.rpartition("/")[2] in _MODELS else Scope.INFER


def _model(message: Any) -> str | None:
    """Return the model that a message names; None where it names none, as a stream's."""
    if message is None:
        return None
    fields = message.DESCRIPTOR.fields_by_name
    named = (getattr(message, name) for name in _NAMES if name in fields)
    return next(named, None) or None
