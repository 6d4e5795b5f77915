"""A network is ready that has answered lately: one that fails, hangs or was replaced."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.app import create_app
from service.errors import Code, GatewayError, ModelError
from service.executors import choice
from service.executors.executor import Images, Judge, Outputs
from service.settings import Settings
from tests import bundles
from tests.conftest import Serve
from tests.service.asking import label, post
from tests.service.fakes import FakeExecutor
from tests.service.following import BLACK, Frail, following, released
from tests.service.scenario import classified, sends, until
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]


def test_a_network_that_begins_to_fail_is_unavailable_until_it_answers_again(
    tmp_path: Path, red_jpeg: bytes
):
    released(tmp_path, 1)

    async def scenario() -> None:
        async with following(tmp_path / "models", Frail) as (gateway, executor):
            network = executor._shelf.loaded["colours"].network
            assert isinstance(network, Frail)
            network.error = ModelError("the GPU has fallen off the bus")
            with pytest.raises(GatewayError) as caught:
                await classified(gateway, "colours", sends(red_jpeg))
            assert caught.value.code is Code.INTERNAL

            await until(lambda: gateway.unavailable)
            assert gateway.unavailable == {"colours": "the GPU has fallen off the bus"}
            with pytest.raises(GatewayError) as caught:
                await classified(gateway, "colours", sends(red_jpeg))
            assert caught.value.code is Code.MODEL_UNAVAILABLE

            network.error = None
            await until(lambda: gateway.models)
            assert (await classified(gateway, "colours", sends(red_jpeg))).version == 1

    asyncio.run(scenario())


def test_a_network_that_nobody_asks_proves_itself_and_one_that_is_asked_need_not(
    tmp_path: Path, red_jpeg: bytes
):
    released(tmp_path, 1)

    async def scenario() -> None:
        async with following(tmp_path / "models", Frail) as (gateway, executor):
            network = executor._shelf.loaded["colours"].network
            assert isinstance(network, Frail)
            await until(lambda: network.runs >= 3)

            network.error = ModelError("nobody noticed")
            await until(lambda: gateway.unavailable)
            network.error = None
            await until(lambda: gateway.models)

            # Long, so that a busy test machine does not count as a time without requests.
            executor._proofs._check_s = 0.3
            await classified(gateway, "colours", sends(red_jpeg))
            before, asked, end_s = network.runs, 0, time.monotonic() + 0.5
            while time.monotonic() < end_s:
                await classified(gateway, "colours", sends(red_jpeg))
                asked += 1
            assert network.runs == before + asked

    asyncio.run(scenario())


def test_a_defect_in_following_is_said_at_once_and_stops_no_answer(
    serve: Serve, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    class Defective(FakeExecutor):
        async def watch(self, changed: Callable[[], None], judge: Judge) -> None:
            raise ZeroDivisionError

    with serve(create_app(Settings(deadline_s=30), Defective())) as client:
        assert label(post(client, red_jpeg)) == "red"
        assert "changes are no longer noticed; restart the service" in caplog.text


def test_networks_that_hang_are_said_to_be_down_until_they_answer(tmp_path: Path):
    released(tmp_path, 1)
    release = threading.Event()

    class Slow(Frail):
        def run(self, images: Images) -> Outputs:
            if self.runs:
                release.wait(10)
            return super().run(images)

    async def scenario() -> None:
        async with following(tmp_path / "models", Slow) as (gateway, executor):
            executor._proofs._hung_s = 0.1
            await until(lambda: executor.down)
            assert not gateway.models
            with pytest.raises(GatewayError, match="have not answered") as caught:
                await classified(gateway, "colours", sends(b""))
            assert caught.value.code is Code.EXECUTOR_UNAVAILABLE

            release.set()
            await until(lambda: gateway.models)
            assert executor.down is None

    asyncio.run(scenario())


def test_a_plan_that_was_replaced_leaves_nothing_on_the_gpu(install: Install, tmp_path: Path):
    here = install("10.3.0")
    folder = bundles.write_model(tmp_path, "colours")
    (folder / "1" / "model.onnx").unlink()
    (folder / "1" / "model.plan").write_bytes(here.plan(bundles.colour_graph()))
    settings = Settings(
        repository=tmp_path, executor="tensorrt", repository_check_s=0.1, deadline_s=0.1
    )

    async def scenario() -> None:
        executor = choice.load(settings)
        watching = asyncio.create_task(executor.watch(lambda: None, lambda _: None))
        held = here.gpu.held()
        shutil.copytree(folder / "1", folder / "2")
        (folder / "config.pbtxt").write_text(bundles.config("colours", bundles.colour_card(), 2))
        await until(lambda: executor.models["colours"].version == 2)
        assert here.gpu.held() != held

        await until(lambda: here.gpu.held() == held)

        assert (await executor.infer("colours", BLACK, 2))["scores"].shape == (1, 4)
        watching.cancel()
        await asyncio.wait([watching])
        executor.close()

    asyncio.run(scenario())
    gc.collect()
    assert here.gpu.held() == {}
    assert here.gpu.faults == []
