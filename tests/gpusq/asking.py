"""One way to call both clients, so that every test runs on each."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Final

from gpusq import AsyncClient, Client

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS: Final = ("sync", "async")


class Asker:
    """Has the methods of both clients, each of which returns its answer.

    Args:
        kind: Which client asks.
    """

    def __init__(self, kind: str, *arguments: Any, **named: Any) -> None:
        # One loop for all calls: connections belong to the loop in which they were opened.
        self._loop = asyncio.new_event_loop()
        self._client = {"sync": Client, "async": AsyncClient}[kind](*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            said = method(*arguments, **named)
            return self._loop.run_until_complete(said) if inspect.isawaitable(said) else said

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._client, Client):
            self._client.close()
        else:
            self._loop.run_until_complete(self._client.aclose())
        self._loop.close()
