"""REST and gRPC answer the same to the last digit, failures included: one suite for both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import Code, ModelError
from service.executors import choice
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.service import calling
from tests.service.asking import MAX_BODY_BYTES, MAX_PIXELS
from tests.service.calling import Both, Said
from tests.service.fakes import FakeExecutor, Never
from tests.service.keyring import Keyring
from tests.service.test_rest import PICTURES, on_its_side

THINGS: dict[str, finding.Box] = {"red": (20, 24, 120, 100), "blue": (150, 80, 301, 221)}
SCENE = encoded(finding.scene((320, 240), THINGS))
NOISE = encoded(Image.fromarray(np.random.default_rng(7).integers(0, 256, (61, 83, 3), np.uint8)))
LARGE = encoded(finding.scene((2401, 1803), {"red": (200, 300, 1600, 1100)}), "JPEG")


@pytest.fixture(scope="module")
def colours(repository: Path, serve: Serve) -> Iterator[Both]:
    settings = Settings(
        repository=repository,
        max_body_bytes=MAX_BODY_BYTES,
        max_pixels=MAX_PIXELS,
        deadline_s=30,
    )
    with calling.both(serve, settings, choice.load(settings)) as both:
        yield both


@pytest.fixture(scope="module")
def scenes(scene_repository: Path, serve: Serve) -> Iterator[Both]:
    settings = Settings(repository=scene_repository, deadline_s=30)
    with calling.both(serve, settings, choice.load(settings)) as both:
        yield both


def same(both: Both, task: str, image: bytes, **options: Any) -> Said:
    """Ask over both, and return what both said."""
    rest, rpc = both.ask_rest(task, image, **options), both.ask_grpc(task, image, **options)
    assert rpc == rest
    return rest


@pytest.mark.parametrize("kind", [*PICTURES, "on its side", "noise"])
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"model": "more-colours", "top_k": 100}])
def test_classes(colours: Both, kind: str, options: dict[str, Any]):
    more = {"on its side": on_its_side(), "noise": NOISE}
    image = more[kind] if kind in more else PICTURES[kind][0]

    said = same(colours, "classify", image, **options)

    assert said.answer
    assert said.answer["predictions"]


@pytest.mark.parametrize("image", [SCENE, NOISE, LARGE], ids=["scene", "noise", "large"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_score": 0.0},
        {"min_score": 0.1, "max_detections": 1},
        {"min_score": 0.9, "masks": "none"},
        {"min_score": 0.1, "masks": "rle"},
        {"min_score": 0.1, "masks": "polygons"},
        {"min_score": 0.1, "model": "shapes-cut", "masks": "rle"},
        {"min_score": 0.1, "model": "shapes-boxes"},
    ],
)
def test_things(scenes: Both, image: bytes, options: dict[str, Any]):
    said = same(scenes, "detect", image, **options)

    assert said.answer
    if image is SCENE and options.get("min_score") == 0.1:
        masks = options.get("masks", "none")
        assert (masks in said.answer["detections"][0]) == (masks != "none")


@pytest.mark.parametrize("image", [SCENE, NOISE, LARGE], ids=["scene", "noise", "large"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"format": "png"},
        {"format": "rle"},
        {"format": "polygons"},
        {"model": "areas-cut"},
        {"model": "areas-cut", "format": "rle"},
    ],
)
def test_areas(scenes: Both, image: bytes, options: dict[str, Any]):
    said = same(scenes, "segment", image, **options)

    assert said.answer
    form = {"png": "class_map"}.get(options.get("format", "png"), options.get("format"))
    assert form in said.answer or form in said.answer["classes"][0]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classify", {"top_k": 0}),
        ("classify", {"top_k": 101}),
        ("classify", {"top_k": -(2**31)}),
        ("detect", {"min_score": -0.1}),
        ("detect", {"min_score": 1.5}),
        ("detect", {"min_score": float("nan")}),
        ("detect", {"min_score": float("inf")}),
        ("detect", {"max_detections": 0}),
        ("detect", {"max_detections": 1001}),
        ("detect", {"masks": 7}),
        ("detect", {"min_score": 2.0, "max_detections": -1, "masks": -1}),
        ("segment", {"format": 4}),
        ("detect", {"model": "shapes-boxes", "masks": "rle"}),
        ("detect", {"model": "shapes-boxes", "masks": "polygons"}),
    ],
)
def test_choices_out_of_range(scenes: Both, task: str, options: dict[str, Any]):
    assert same(scenes, task, SCENE, **options).code == "invalid_argument"


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        (b"", {}, "bad_image"),
        (b"GET / HTTP/1.1\r\n\r\n", {}, "unsupported_media"),
        (b"%!PS-Adobe-3.0", {}, "unsupported_media"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), {}, "unsupported_media"),
        (PICTURES["JPEG"][0][:300], {}, "bad_image"),
        (PICTURES["palette"][0][:60], {}, "bad_image"),
        (encoded(Image.new("1", (1001, 1000))), {}, "too_many_pixels"),
        (b"x" * MAX_BODY_BYTES, {}, "unsupported_media"),
        (b"", {"model": "resnet"}, "unknown_model"),
        (b"", {"model": "m" * 5000}, "unknown_model"),
        (b"", {"model": "broken"}, "model_unavailable"),
        # Whichever is looked at first, both look at it first.
        (b"x" * (MAX_BODY_BYTES + 1), {"model": "resnet"}, "unknown_model"),
        (b"", {"model": "resnet", "top_k": 0}, "invalid_argument"),
    ],
)
def test_refusals(colours: Both, image: bytes, options: dict[str, Any], code: str):
    assert same(colours, "classify", image, **options).code == code


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_task_that_no_model_can_do(colours: Both, task: str):
    assert same(colours, task, SCENE).code == "unknown_model"


def test_too_many_bytes_are_counted_in_a_body_or_in_a_picture(colours: Both):
    image = b"x" * (MAX_BODY_BYTES + 1)
    rest, rpc = colours.ask_rest("classify", image), colours.ask_grpc("classify", image)

    assert rest.code == "too_many_bytes"
    assert rpc.detail
    assert rpc == replace(rest, detail=rpc.detail)
    assert rpc.detail.startswith("A picture may have 200,000 bytes, this one has 200,001.")


def test_the_wrong_task_is_told_what_to_ask_instead(scenes: Both):
    options = {"model": "shapes"}
    rest, rpc = (ask("classify", SCENE, **options) for ask in (scenes.ask_rest, scenes.ask_grpc))

    assert rest.code == "wrong_task"
    assert rest.detail
    assert "Send the picture to /v1/detect" in rest.detail
    assert rpc == replace(rest, detail=rest.detail.replace("Send the picture to /v1/", "Call ")
                          .replace("Call detect", "Call Detect"))  # fmt: skip


def test_the_models(colours: Both, scenes: Both):
    for both in (colours, scenes):
        rest, rpc = both.models()
        assert rpc == rest
        assert len(rest["models"]) > 2


def test_one_that_is_too_many(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    executor.gate = Never()  # type: ignore[assignment]
    settings = Settings(decode_threads=1, queue_limit=0, deadline_s=30)
    with calling.both(serve, settings, executor) as both:
        request = calling.message("Classify", image=red_jpeg)
        waiting = [calling.method(both.channel, "Classify").future(request) for _ in range(2)]
        while "gpusq_in_flight 2.0" not in both.rest.get("/metrics").text:
            pass
        said = same(both, "classify", red_jpeg)
        for call in waiting:
            call.cancel()

    assert said.code == "overloaded"
    assert said.retry_after == "1"


def test_an_answer_that_comes_too_late(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    executor.gate = Never()  # type: ignore[assignment]
    with calling.both(serve, Settings(deadline_s=0.3), executor) as both:
        asked = [ask("classify", red_jpeg) for ask in (both.ask_rest, both.ask_grpc)]

    # The time to read counts too, and differs.
    rest, rpc = (replace(s, detail=re.sub(r"[\d.]+ s\.", "0.3 s.", str(s.detail))) for s in asked)
    assert rest.code == "deadline_exceeded"
    assert rpc == rest


def test_a_network_that_fails_and_one_that_cannot_be_reached(serve: Serve, red_jpeg: bytes):
    executor = FakeExecutor()
    with calling.both(serve, Settings(), executor) as both:
        executor.error = ModelError("/a/secret/path")
        assert same(both, "classify", red_jpeg).code == "internal"
        executor.error = None
        executor.down = "Nothing answers at 127.0.0.1:1."
        assert same(both, "classify", red_jpeg).code == "executor_unavailable"


def timeless(said: Said) -> Said:
    """Leave out the seconds that are left, which go on between two requests."""
    detail = re.sub(r"in \d+ s\.", "", str(said.detail))
    return replace(said, detail=detail, retry_after=said.retry_after and "soon")


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        ({}, None),
        ({"scopes": ["models"]}, "forbidden"),
        ({"models": ["other"]}, "forbidden"),
        ({"rate": 0.001}, "rate_limited"),
        ({"quota": 1}, "quota_exceeded"),
        ({"not_after": "2020-02-29"}, "unauthenticated"),
        (None, "unauthenticated"),
    ],
)
def test_keys(
    serve: Serve,
    tmp_path: Path,
    red_jpeg: bytes,
    chosen: dict[str, Any] | None,
    code: str | None,
):
    keyring = Keyring(tmp_path / "keys.json")
    keyring.add("ann", **(chosen or {}))
    with calling.both(serve, Settings(api_keys=keyring.path), FakeExecutor()) as both:
        if chosen is not None:
            both.bring(keyring, "ann")
        # Both count on one rate and one quota, which the first request uses up.
        both.ask_rest("classify", red_jpeg)
        rest, rpc = (ask("classify", red_jpeg) for ask in (both.ask_rest, both.ask_grpc))

    assert rest.code == code
    assert timeless(rpc) == timeless(rest)


def test_the_suite_meets_every_code_that_both_can_have():
    text = Path(__file__).read_text(encoding="utf-8")

    # A message that is none or does not come has no like in REST; only REST fetches.
    transports_own = {Code.BAD_REQUEST, Code.READ_TIMEOUT, Code.FETCH_FAILED}
    assert {code for code in Code if f'"{code.value}"' not in text} == transports_own
