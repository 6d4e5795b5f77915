"""Models come, change and go while requests run. Real files, real networks, real publishing."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import weakref
from pathlib import Path

import onnx
import pytest

from service.answer import Source
from service.cards import ModelsAnswer
from service.errors import Code, GatewayError, VersionGoneError
from service.executors import choice
from service.gateway import Gateway
from service.settings import Settings
from service.tasks import classify
from tests import bundles
from tests.service.following import BLACK, following, looks, released, version
from tests.service.scenario import classified, sends, until


@pytest.fixture(params=sorted(choice.RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_versions_replaced_under_load_lose_no_request_and_leave_no_network(
    runtime: str, tmp_path: Path, red_jpeg: bytes
):
    released(tmp_path, 1)

    async def ask(gateway: Gateway, stop: asyncio.Event) -> list[int]:
        versions = []
        while not stop.is_set():
            answer = await classified(gateway, "colours", sends(red_jpeg))
            # The network and the names are those of the same version.
            assert answer.result[0].label == f"red {answer.version}"
            versions.append(answer.version)
        return versions

    async def scenario() -> None:
        stop = asyncio.Event()
        made = choice.RUNTIMES[runtime]()
        async with following(tmp_path / "models", made) as (gateway, executor):
            asking = [asyncio.create_task(ask(gateway, stop)) for _ in range(3)]
            networks = []
            for number in range(2, 7):
                networks.append(weakref.ref(executor._shelf.loaded["colours"].network))
                released(tmp_path, number)
                await until(lambda number=number: version(gateway) == number)
            stop.set()
            for versions in await asyncio.gather(*asking):
                assert versions == sorted(versions)
            assert (await classified(gateway, "colours", sends(red_jpeg))).version == 6
            await until(lambda: gc.collect() >= 0 and not any(one() for one in networks))

    asyncio.run(scenario())


def test_the_old_version_answers_what_was_made_for_it_and_is_then_gone(tmp_path: Path):
    released(tmp_path, 1)

    async def scenario() -> None:
        async with following(tmp_path / "models", drain_s=0.5) as (gateway, executor):
            released(tmp_path, 2, size_px=4)
            await until(lambda: version(gateway) == 2)

            assert (await executor.infer("colours", BLACK, 1))["scores"].shape == (1, 4)
            await executor.infer("colours", BLACK[:, :4, :4], 2)
            await until(lambda: not executor._shelf.draining)

            with pytest.raises(VersionGoneError):
                await executor.infer("colours", BLACK, 1)

    asyncio.run(scenario())


def test_files_replaced_under_the_same_version_are_taken_up(tmp_path: Path):
    released(tmp_path, 1)
    released(tmp_path, 1, "other", size_px=4)
    folder, other = (tmp_path / "models" / name for name in ("colours", "other"))
    config = (other / "config.pbtxt").read_text().replace('"other"', '"colours"')

    async def scenario() -> None:
        async with following(tmp_path / "models", drain_s=0.5) as (gateway, executor):
            shutil.copy(other / "1" / "model.onnx", folder / "1" / "new.onnx")
            (folder / "1" / "new.onnx").replace(folder / "1" / "model.onnx")
            (folder / "config.pbtxt").write_text(config)
            await until(lambda: gateway.models["colours"].card.preprocessing.width == 4)

            # What was made for the network before is still answered by it.
            await executor.infer("colours", BLACK, 1)
            await executor.infer("colours", BLACK[:, :4, :4], 1)

    asyncio.run(scenario())


def test_a_request_that_outlives_its_version_begins_again_with_the_next(
    tmp_path: Path, red_jpeg: bytes
):
    released(tmp_path, 1)

    async def scenario() -> None:
        async with following(tmp_path / "models") as (gateway, executor):
            arrived = asyncio.Event()

            async def slow() -> bytes:
                await arrived.wait()
                return red_jpeg

            source = Source(slow, len(red_jpeg))
            answer = asyncio.create_task(
                gateway.answer(classify.TASK, None, source, classify.Options(1))
            )
            await asyncio.sleep(0)
            released(tmp_path, 2, size_px=4)
            await until(lambda: version(gateway) == 2 and not executor._shelf.draining)
            arrived.set()

            assert (await answer).version == 2

    asyncio.run(scenario())


def test_models_come_and_go_with_their_folders(tmp_path: Path):
    released(tmp_path, 1)

    async def scenario() -> None:
        models = tmp_path / "models"
        async with following(models) as (gateway, _executor):
            (models / ".more.partial").mkdir()
            (models / "photos").mkdir()
            released(tmp_path, 1, "more")
            await until(lambda: "more" in gateway.models)
            assert sorted({*gateway.models, *gateway.unavailable}) == ["colours", "more"]

            shutil.rmtree(models / "colours")
            await until(lambda: "colours" not in gateway.models)

            assert (list(gateway.models), gateway.default) == (["more"], "more")
            with pytest.raises(GatewayError) as caught:
                await classified(gateway, "colours", sends(b""))
            assert caught.value.code is Code.UNKNOWN_MODEL

    asyncio.run(scenario())


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_says_so_once(
    tmp_path: Path, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    released(tmp_path, 1)

    async def scenario() -> None:
        models = tmp_path / "models"
        async with following(models) as (gateway, _executor):
            released(tmp_path, 2)
            (models / "colours" / "2" / "model.onnx").write_bytes(b"not a network")
            await until(lambda: gateway.catalogue.behind)
            await looks()

            assert "refuses model.onnx" in gateway.catalogue.behind["colours"]
            assert not gateway.unavailable
            [described] = ModelsAnswer.of(gateway, Settings()).models
            assert (described.state, described.version) == ("ready", 1)
            assert described.behind == gateway.catalogue.behind["colours"]
            assert (await classified(gateway, "colours", sends(red_jpeg))).version == 1
            assert b'gpusq_model_behind{model="colours"} 1.0' in gateway.metrics.render()

            released(tmp_path, 3)
            await until(lambda: version(gateway) == 3)
            assert not gateway.catalogue.behind
            assert b'gpusq_model_behind{model="colours"} 0.0' in gateway.metrics.render()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    said = [r.message for r in caplog.records if "version 1 of model colours still" in r.message]
    assert len(said) == 1


def test_a_version_whose_outputs_nobody_could_read_does_not_take_over(tmp_path: Path):
    folder = bundles.write_model(tmp_path, "colours")
    before = (folder / "config.pbtxt").read_text()

    async def scenario() -> None:
        async with following(tmp_path) as (gateway, _executor):
            # Graph and configuration agree on five classes; the card has four.
            (folder / "2").mkdir()
            onnx.save(bundles.colour_graph(5), folder / "2" / "model.onnx")
            after = bundles.config("colours", bundles.colour_card(), 2)
            (folder / "config.pbtxt").write_text(after.replace("dims: 4", "dims: 5"))
            await until(lambda: gateway.catalogue.behind)
            assert "the card has 4 labels" in gateway.catalogue.behind["colours"]
            assert version(gateway) == 1

            (folder / "config.pbtxt").write_text(before)
            await until(lambda: not gateway.catalogue.behind)

    asyncio.run(scenario())


def test_what_was_broken_at_the_start_is_taken_up_when_it_is_mended(tmp_path: Path):
    models = tmp_path / "models"
    released(tmp_path, 1)
    folder = bundles.write_model(models, "more")
    whole = (folder / "1" / "model.onnx").read_bytes()
    (folder / "1" / "model.onnx").write_bytes(whole[:-9])

    async def scenario() -> None:
        async with following(models) as (gateway, _executor):
            assert "refuses model.onnx" in gateway.unavailable["more"]
            (folder / "1" / "model.onnx").write_bytes(whole)
            await until(lambda: "more" in gateway.models)
            assert not gateway.unavailable

    asyncio.run(scenario())


@pytest.mark.parametrize("empty", [True, False])
def test_a_repository_that_is_away_for_a_while_unloads_nothing(
    empty: bool, tmp_path: Path, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    released(tmp_path, 1)
    models, away = tmp_path / "models", tmp_path / "away"

    async def scenario() -> None:
        async with following(models) as (gateway, executor):
            served = executor._shelf.loaded["colours"].network
            models.rename(away)
            if empty:
                models.mkdir()
            await looks()
            assert (await classified(gateway, "colours", sends(red_jpeg))).version == 1
            if empty:
                models.rmdir()
            away.rename(models)
            await looks()

            assert executor._shelf.loaded["colours"].network is served
            released(tmp_path, 2)
            await until(lambda: version(gateway) == 2)

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert caplog.text.count("what is loaded is kept, the repository cannot be read") == 1
    assert caplog.text.count("the repository can be read again") == 1


def test_a_folder_that_is_replaced_by_hand_is_not_unloaded_in_between(tmp_path: Path):
    released(tmp_path, 1)
    released(tmp_path, 1, "more")
    folder = tmp_path / "models" / "colours"

    async def scenario() -> None:
        async with following(tmp_path / "models") as (_gateway, executor):
            served = executor._shelf.loaded["colours"]
            folder.rename(tmp_path / "aside")
            await until(lambda: "colours" in executor._watcher._missed)
            (tmp_path / "aside").rename(folder)
            await looks()
            # Nothing about its files is new.
            assert executor._shelf.loaded["colours"] is served

    asyncio.run(scenario())


def test_what_a_killed_publisher_leaves_behind_changes_nothing(tmp_path: Path):
    released(tmp_path, 1)
    folder = tmp_path / "models" / "colours"

    async def scenario() -> None:
        async with following(tmp_path / "models") as (gateway, executor):
            served = executor._shelf.loaded["colours"]
            # Killed between adding the version and switching to it.
            shutil.copytree(folder / "1", folder / "2")
            (folder / ".publish-2").mkdir()
            shutil.copy(folder / "config.pbtxt", folder / ".publish-2")
            await looks()
            assert executor._shelf.loaded["colours"] is served
            assert not gateway.catalogue.behind

            released(tmp_path, 2)
            await until(lambda: version(gateway) == 2)

    asyncio.run(scenario())
