"""What tests of the gateway without a transport do alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.answer import Answer, Source
from service.errors import Code, GatewayError
from service.gateway import Gateway
from service.settings import Settings
from service.tasks import classify
from service.tasks.classify import Prediction
from tests.service.fakes import FakeExecutor


def run(
    scenario: Callable[[Gateway, FakeExecutor], Coroutine[Any, Any, None]],
    executor: FakeExecutor | None = None,
    **settings: Any,
) -> Gateway:
    """Run a scenario in an event loop of its own."""
    executor = executor or FakeExecutor()
    gateway = Gateway(executor, Settings(**{"decode_threads": 1, **settings}))

    async def inside() -> None:
        await scenario(gateway, executor)

    try:
        asyncio.run(inside())
    finally:
        gateway.close()
    assert executor.closed
    return gateway


def sends(data: bytes) -> Source[bytes]:
    async def read() -> bytes:
        return data

    return Source(read, len(data))


async def classified(
    gateway: Gateway, model: str | None, source: Source[bytes], top_k: int = 5
) -> Answer[list[Prediction]]:
    return await gateway.answer(classify.TASK, model, source, classify.Options(top_k))


async def code_of(answer: Coroutine[Any, Any, Any]) -> Code:
    with pytest.raises(GatewayError) as caught:
        await answer
    return caught.value.code


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for what has no event to wait for."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        await asyncio.sleep(0.002)
