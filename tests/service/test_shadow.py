"""A second model is asked about the same pictures, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.preprocess import Preprocessing
from service.answer import Answer, Source
from service.executors import choice
from service.executors.executor import Executor
from service.gateway import Gateway
from service.settings import Settings
from service.shadow import AT_ONCE
from service.tasks import classify, detect, segment
from tests import bundles, finding
from tests.conftest import encoded
from tests.service.fakes import FakeExecutor
from tests.service.scenario import until


@contextlib.asynccontextmanager
async def shadowing(
    tmp_path: Path, executor: Executor, share: float = 1.0, **pairs: str
) -> AsyncIterator[Gateway]:
    path = tmp_path / "routes.json"
    shadow = {live: {"model": other, "share": share} for live, other in pairs.items()}
    path.write_text(json.dumps({"shadow": shadow}), encoding="utf-8")
    gateway = Gateway(executor, Settings(routes=path, decode_threads=1, deadline_s=30))
    try:
        yield gateway
        await until(lambda: not gateway._shadows._running)
    finally:
        gateway.close()


async def ask(gateway: Gateway, data: bytes, model: str, task: Any = classify) -> Answer[Any]:
    async def read() -> bytes:
        return data

    return await gateway.answer(task.TASK, model, Source(read, len(data)), task.Options())


def shown(gateway: Gateway, metric: str, **wanted: str) -> float:
    """Return the sum over the children of a metric with these labels."""
    lines = gateway.metrics.render().decode().splitlines()
    found = [re.fullmatch(rf"{metric}(?:\{{(.*)\}})? (\S+)", line) for line in lines]
    labels = [f'{name}="{value}"' for name, value in wanted.items()]
    return sum(
        float(line[2]) for line in found if line and all(label in line[1] for label in labels)
    )


def outcomes(gateway: Gateway) -> dict[str, float]:
    names = ("ok", "dropped", "failed")
    return {n: shown(gateway, "gpusq_shadow_requests_total", outcome=n) for n in names}


@pytest.fixture
def colours(tmp_path: Path) -> Executor:
    """One network; the same again on smaller pictures; and one that calls red green."""
    models = tmp_path / "models"
    bundles.write_model(models, "colours")
    small = bundles.colour_graph(size_px=4), bundles.colour_card(size_px=4)
    bundles.write_model(models, "small", *small)
    confused = bundles.colour_card(("green", "red", "blue", "black"))
    bundles.write_model(models, "confused", None, confused)
    return choice.load(Settings(repository=models, executor="onnxruntime"))


@pytest.mark.parametrize(("shadow", "agrees"), [("small", 1), ("confused", 0)])
def test_the_same_picture_goes_to_the_shadow_and_the_answers_are_compared(
    tmp_path: Path, colours: Executor, red_jpeg: bytes, shadow: str, agrees: int
):
    async def scenario() -> None:
        async with shadowing(tmp_path, colours, colours=shadow) as gateway:
            for _ in range(3):
                answer = await ask(gateway, red_jpeg, "colours")
                assert (answer.model, answer.result[0].label) == ("colours", "red")
                await until(lambda: not gateway._shadows._running)

            assert outcomes(gateway) == {"ok": 3, "dropped": 0, "failed": 0}
            pair = {"model": "colours", "shadow": shadow}
            assert (
                shown(gateway, "gpusq_shadow_agreement_sum", measure="top1", **pair) == 3 * agrees
            )
            assert shown(gateway, "gpusq_shadow_agreement_count", measure="top1", **pair) == 3
            name = "gpusq_shadow_latency_ratio"
            assert shown(gateway, f"{name}_count", **pair) == 3
            for side in ("live", "shadow"):
                assert shown(gateway, "gpusq_shadow_infer_seconds_total", side=side, **pair) > 0
            # Requests are what clients asked, and nothing else.
            assert shown(gateway, "gpusq_requests_total", outcome="ok") == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("task", "measures"),
    [(detect, {"matched": 1.0, "box_iou": 1.0}), (segment, {"pixels": 1.0, "mean_iou": 1.0})],
)
def test_boxes_and_maps_are_compared_too(
    tmp_path: Path, scene_repository: Path, task: Any, measures: dict[str, float]
):
    executor = choice.load(Settings(repository=scene_repository, executor="onnxruntime"))
    names = [n for n, model in executor.models.items() if model.card.task == task.TASK.name]
    live, shadow = names[:2]
    picture = encoded(finding.scene((320, 240), {"red": (40, 40, 120, 160)}))

    async def scenario() -> None:
        async with shadowing(tmp_path, executor, **{live: shadow}) as gateway:
            await ask(gateway, picture, live, task)
            await until(lambda: outcomes(gateway)["ok"])
            for measure, expected in measures.items():
                found = shown(gateway, "gpusq_shadow_agreement_sum", measure=measure)
                # What another framing scales differently.
                assert found == pytest.approx(expected, abs=0.1)

    asyncio.run(scenario())


def test_no_more_than_the_share_is_sent(tmp_path: Path, red_jpeg: bytes):
    async def scenario() -> None:
        executor = FakeExecutor(models=("a", "b"))
        async with shadowing(tmp_path, executor, share=0.001, a="b") as gateway:
            gateway._router._random.seed(0)
            for _ in range(20):
                await ask(gateway, red_jpeg, "a")
            assert executor.calls == 20

    asyncio.run(scenario())


def test_a_shadow_waits_for_a_moment_when_nobody_is_answered(tmp_path: Path, red_jpeg: bytes):
    async def scenario() -> None:
        executor = FakeExecutor(models=("a", "b"))
        async with shadowing(tmp_path, executor, a="b") as gateway:
            await ask(gateway, red_jpeg, "a")
            executor.gate = asyncio.Event()
            live = asyncio.create_task(ask(gateway, red_jpeg, "b"))
            await until(lambda: executor.calls == 2)
            await asyncio.sleep(0.1)
            assert executor.calls == 2

            executor.gate.set()
            await live
            await until(lambda: executor.calls == 3)

    asyncio.run(scenario())


def test_what_finds_no_moment_or_no_place_is_dropped_and_counted(tmp_path: Path, red_jpeg: bytes):
    async def scenario() -> None:
        executor = FakeExecutor(models=("a", "b"))
        async with shadowing(tmp_path, executor, a="b") as gateway:
            gateway._shadows._patience_s = 0.1
            for _ in range(AT_ONCE + 1):
                await ask(gateway, red_jpeg, "a")
            assert outcomes(gateway) == {"ok": 0, "dropped": 1, "failed": 0}
            executor.gate = asyncio.Event()
            live = asyncio.create_task(ask(gateway, red_jpeg, "b"))
            await until(lambda: not gateway._shadows._running)
            executor.gate.set()
            await live

            assert outcomes(gateway) == {"ok": 0, "dropped": 1 + AT_ONCE, "failed": 0}
            assert executor.calls == AT_ONCE + 2

    asyncio.run(scenario())


def test_a_shadow_that_fails_or_is_away_harms_no_answer(
    tmp_path: Path, red_jpeg: bytes, caplog: pytest.LogCaptureFixture
):
    async def scenario() -> None:
        executor = FakeExecutor(models=("a", "b"))
        async with shadowing(tmp_path, executor, a="away") as gateway:
            for _ in range(2):
                assert (await ask(gateway, red_jpeg, "a")).model == "a"
                await until(lambda: not gateway._shadows._running)
            assert outcomes(gateway) == {"ok": 0, "dropped": 0, "failed": 2}

    asyncio.run(scenario())
    assert caplog.text.count("the shadow away of a failed: There is no model 'away'") == 1


def test_a_stop_gives_up_what_is_compared(tmp_path: Path, red_jpeg: bytes):
    async def scenario() -> None:
        executor = FakeExecutor(models=("a", "b"))
        async with shadowing(tmp_path, executor, a="b") as gateway:
            await ask(gateway, red_jpeg, "a")
            gateway.close()
            await until(lambda: not gateway._shadows._running)
            assert executor.calls == 1

    asyncio.run(scenario())


def test_the_small_network_sees_other_pictures():
    # Else nothing is decoded anew in the tests above.
    assert bundles.colour_card(size_px=4).preprocessing == Preprocessing(4, 4, 4)
