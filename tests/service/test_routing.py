"""Names that stand for several models, from a file that changes while the service runs."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.answer import Source
from service.app import create_app
from service.cards import ModelsAnswer
from service.errors import Code, GatewayError, StartError
from service.executors import choice
from service.gateway import Gateway
from service.routing import Routes
from service.rpc import answers
from service.rpc.gpusq.v1.vision_pb2 import Model
from service.settings import Settings
from service.tasks import classify, detect
from tests.conftest import Serve
from tests.service.asking import post
from tests.service.fakes import FakeExecutor
from tests.service.scenario import until

MODELS = ("now", "next")


def written(path: Path, **routes: Any) -> Path:
    path.write_text(json.dumps(routes), encoding="utf-8")
    return path


@contextlib.asynccontextmanager
async def routing(
    path: Path, executor: FakeExecutor | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    executor = executor or FakeExecutor(models=MODELS)
    gateway = Gateway(executor, Settings(routes=path, decode_threads=1, **settings))
    gateway._router._check_s = 0.02
    watching = asyncio.create_task(gateway.watch())
    try:
        yield gateway
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        gateway.close()


def test_requests_fall_to_models_by_their_weights():
    routes = Routes(aliases={"a": {"old": 90, "new": 10, "none": 0}})
    models = dict.fromkeys(("old", "new", "none"), FakeExecutor().models["colours"])

    picked = collections.Counter(routes.pick("a", models, i / 1000) for i in range(1000))

    assert picked == {"old": 900, "new": 100}


def test_a_model_that_cannot_be_asked_leaves_its_share_to_the_others():
    routes = Routes(aliases={"a": {"old": 90, "new": 5, "newer": 5}})
    models = dict.fromkeys(("new", "newer"), FakeExecutor().models["colours"])

    picked = collections.Counter(routes.pick("a", models, i / 1000) for i in range(1000))

    assert picked == {"new": 500, "newer": 500}
    assert routes.pick("a", {}, 0.99) == "old"


def test_an_answer_names_the_model_that_gave_it_and_is_counted_for_it(
    tmp_path: Path, red_jpeg: bytes
):
    path = written(tmp_path / "routes.json", aliases={"photo": {"now": 1, "next": 1}})

    async def read() -> bytes:
        return red_jpeg

    async def scenario() -> None:
        async with routing(path) as gateway:
            answered = collections.Counter()
            while len(answered) < 2:
                answer = await gateway.answer(
                    classify.TASK, "photo", Source(read, 1), classify.Options()
                )
                answered[answer.model] += 1
            shown = gateway.metrics.render().decode()
            for model, count in answered.items():
                labels = f'model="{model}",outcome="ok",task="classify"'
                assert f"gpusq_requests_total{{{labels}}} {float(count)}" in shown
            assert "photo" not in shown

            with pytest.raises(GatewayError) as caught:
                await gateway.answer(detect.TASK, "photo", Source(read, 1), detect.Options())
            assert caught.value.code is Code.WRONG_TASK

    asyncio.run(scenario())


def test_a_changed_file_counts_from_then_on_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = written(tmp_path / "routes.json", aliases={"photo": {"now": 1}})

    async def scenario() -> None:
        async with routing(path) as gateway:
            assert gateway.catalogue.real("photo", None) == "now"
            written(path, aliases={"photo": {"next": 1}})
            await until(lambda: gateway.catalogue.real("photo", None) == "next")

            path.write_text('{"aliases": {"photo": {"now": -1}}}')
            await until(lambda: "stay as they were" in caplog.text)
            await asyncio.sleep(0.1)
            assert gateway.catalogue.real("photo", None) == "next"

            written(path)
            await until(lambda: gateway.catalogue.real("photo", None) == "photo")

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert caplog.text.count("stay as they were") == 1
    assert "aliases.photo.now: Input should be greater than or equal to 0" in caplog.text


def test_an_alias_may_be_the_default_and_take_the_name_of_a_model(tmp_path: Path):
    path = written(tmp_path / "routes.json", aliases={"photo": {"now": 1}, "now": {"next": 1}})

    async def scenario() -> None:
        async with routing(path, default_model="photo") as gateway:
            assert gateway.ready
            assert gateway.defaults == {"classify": "photo"}
            assert gateway.catalogue.real(None, "classify") == "now"
            assert gateway.catalogue.real("now", "classify") == "next"

            listed = ModelsAnswer.of(gateway, Settings())
            # Clients that know no alias still find a default.
            assert [model.name for model in listed.models if model.default] == ["now"]
            said = answers.models(listed).aliases
            assert [(one.name, one.default, dict(one.models)) for one in said] == [
                ("now", False, {"next": 1.0}),
                ("photo", True, {"now": 1.0}),
            ]
            assert {one.state for one in said} == {Model.STATE_READY}

    asyncio.run(scenario())


def test_an_alias_without_any_model_that_answers_is_not_ready(tmp_path: Path):
    path = written(tmp_path / "routes.json", aliases={"photo": {"now": 1, "next": 2}})
    executor = FakeExecutor(models=MODELS)

    async def scenario() -> None:
        async with routing(path, executor, default_model="photo") as gateway:
            executor.unavailable = dict.fromkeys(executor.models, "the GPU is gone")
            executor.models = {}
            gateway.catalogue.take_up()

            assert not gateway.ready
            assert gateway.defaults == {"classify": "photo"}
            name = gateway.catalogue.real(None, "classify")
            with pytest.raises(GatewayError, match="the GPU is gone"):
                gateway.catalogue.target("classify", name)

    asyncio.run(scenario())


def test_what_the_file_asks_for_and_cannot_be_done_is_said_once(
    scene_repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    settings = Settings(repository=scene_repository, executor="onnxruntime")
    executor = choice.load(settings)
    task = {model.card.task: name for name, model in executor.models.items()}
    mixed, other = task["classify"], task["detect"]
    path = written(
        tmp_path / "routes.json",
        aliases={"mix": {mixed: 1, other: 1}, "gone": {"nobody": 1}},
        shadow={mixed: {"model": other, "share": 1}},
    )
    gateway = Gateway(executor, settings.model_copy(update={"routes": path}))
    gateway.catalogue.take_up()

    assert caplog.text.count("the alias 'gone' names 'nobody', which is no model") == 1
    assert caplog.text.count("the alias 'mix' stands for models of several tasks") == 1
    assert caplog.text.count(f"the shadow of {mixed!r}: {other!r} is for another task") == 1
    with pytest.raises(GatewayError, match="several tasks") as caught:
        gateway.catalogue.target("classify", gateway.catalogue.real("mix", "classify"))
    assert caught.value.code is Code.MODEL_UNAVAILABLE
    with pytest.raises(
        GatewayError, match=r"alias 'gone' stands for 'nobody' \(no model\)"
    ) as caught:
        gateway.catalogue.target("classify", gateway.catalogue.real("gone", "classify"))
    assert caught.value.code is Code.MODEL_UNAVAILABLE
    gateway.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "Invalid JSON"),
        ('{"alias": {}}', "alias: Extra inputs are not permitted"),
        ('{"aliases": {"a": {}}}', "the alias 'a' needs a name, and a model of some weight"),
        ('{"aliases": {"a": {"b": 0}}}', "a model of some weight"),
        ('{"shadow": {"a": {"model": "b", "share": 2}}}', "shadow.a.share: Input should be less"),
        ('{"shadow": {"a": {"model": "a", "share": 1}}}', "'a' cannot check itself"),
    ],
)
def test_a_start_with_a_broken_file_is_refused(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "routes.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(StartError, match=r"^GPUSQ_ROUTES: .*routes\.json") as caught:
        Gateway(FakeExecutor(), Settings(routes=path))

    assert said in str(caught.value)


def test_aliases_are_listed_and_answer_over_http(
    repository: Path, serve: Serve, tmp_path: Path, red_jpeg: bytes
):
    path = written(tmp_path / "routes.json", aliases={"photo": {"colours": 3, "broken": 1}})
    settings = Settings(
        repository=repository,
        executor="onnxruntime",
        routes=path,
        default_model="photo",
        deadline_s=30,
    )

    with serve(create_app(settings, choice.load(settings))) as client:
        listed = client.get("/v1/models").json()
        came: list[httpx.Response] = [post(client, red_jpeg, model="photo") for _ in range(8)]
        came.append(post(client, red_jpeg))
        ready = client.get("/readyz")

    assert listed["aliases"] == [
        {
            "name": "photo",
            "state": "ready",
            "default": True,
            "reason": None,
            "task": "classify",
            "models": {"colours": 0.75, "broken": 0.25},
        }
    ]
    assert [answer.json()["model"] for answer in came] == ["colours"] * 9
    assert ready.status_code == 200
