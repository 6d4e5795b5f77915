"""Both clients against the real service with real networks."""

from __future__ import annotations

import dataclasses
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import gpusq
from gpusq import reading
from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.gpusq.asking import KINDS, Asker
from tests.service.asking import post

SIZE = (320, 240)
THINGS: dict[str, finding.Box] = {"red": (20, 24, 120, 100), "green": (150, 80, 301, 221)}
IMAGE = finding.scene(SIZE, THINGS)
SCENE = encoded(IMAGE)


@pytest.fixture(scope="module")
def raw(scene_repository: Path, serve: Serve) -> Iterator[httpx.Client]:
    settings = Settings(repository=scene_repository, executor="onnxruntime", deadline_s=30)
    with serve(create_app(settings, choice.load(settings))) as client:
        yield client


@pytest.fixture(scope="module")
def url(raw: httpx.Client) -> str:
    return str(raw.base_url)


@pytest.fixture(scope="module", params=KINDS)
def client(request: pytest.FixtureRequest, url: str) -> Iterator[Asker]:
    with Asker(request.param, url) as client:
        yield client


def said(raw: httpx.Client, task: str, **query: Any) -> dict[str, Any]:
    """Return the JSON of the service itself, without what differs from call to call."""
    answer: dict[str, Any] = post(raw, SCENE, task=task, **query).json()
    del answer["timings_ms"]
    return answer


def painted(name: str) -> np.ndarray:
    return np.array(finding.scene(SIZE, {name: THINGS[name]})).any(axis=2)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classify", {}),
        ("classify", {"model": "colours", "top_k": 2}),
        ("detect", {}),
        ("detect", {"model": "shapes", "min_score": 0.7, "max_detections": 1, "masks": "rle"}),
        ("detect", {"masks": "polygons"}),
        ("segment", {}),
        ("segment", {"model": "areas-cut", "format": "rle"}),
        ("segment", {"format": "polygons"}),
    ],
)
def test_answers_are_those_of_the_service_to_the_last_digit(client, raw, task, options):
    answer = getattr(client, task)(SCENE, **options)

    plain = reading.plain(answer)
    assert set(plain.pop("timings_ms")) >= {"read", "decode", "infer", "total"}
    assert len(plain.pop("request_id")) == 36
    assert plain == said(raw, task, **options)


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def signatures(kind: type) -> dict[str, inspect.Signature]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(f) for name, f in members if name[0] != "_"}

    mine, other = signatures(gpusq.Client), signatures(gpusq.AsyncClient)
    assert mine.pop("close").parameters == other.pop("aclose").parameters
    assert mine == other
    assert inspect.signature(gpusq.Client) == inspect.signature(gpusq.AsyncClient)


@pytest.mark.parametrize(
    "given",
    [
        lambda path: path,
        str,
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
        Image.open,
        lambda path: Image.open(path).convert("CMYK"),
    ],
    ids=["path", "str", "bytes", "bytearray", "memoryview", "file", "image", "cmyk image"],
)
def test_a_picture_may_come_in_any_form(client, tmp_path: Path, given: Callable[[Path], Any]):
    path = tmp_path / "scene.png"
    path.write_bytes(SCENE)

    answer = client.detect(given(path))

    assert [found.label for found in answer.detections] == ["red", "green"]
    assert answer.image == gpusq.Size(*SIZE)


def test_boxes_of_a_pillow_image_are_those_of_the_image_and_not_of_its_file(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = Image.open(io.BytesIO(encoded(IMAGE, "PNG", exif=exif)))

    upright = client.detect(encoded(IMAGE, "PNG", exif=exif))
    as_it_is = client.detect(turned)

    assert upright.image == gpusq.Size(240, 320)
    assert as_it_is.image == gpusq.Size(320, 240)
    assert as_it_is.detections == client.detect(SCENE).detections


def test_masks_are_pictures_of_the_whole_picture(client):
    found = client.detect(SCENE, masks="rle").detections

    for detection in found:
        mask = detection.rle.mask()
        assert (mask.mode, mask.size) == ("L", SIZE)
        inside = np.asarray(mask)
        assert set(np.unique(inside)) == {0, 255}
        both = (inside == 255) & painted(detection.label)
        either = (inside == 255) | painted(detection.label)
        # The network's mask has 28 x 28 cells.
        assert both.sum() / either.sum() > 0.95


def test_a_class_map_is_a_png_of_indices(client):
    answer = client.segment(SCENE)

    pixels = np.asarray(Image.open(io.BytesIO(answer.class_map)))
    assert pixels.shape == (240, 320)
    assert {area.index: area.area_px for area in answer.classes} == {
        int(index): int((pixels == index).sum()) for index in np.unique(pixels)
    }


def test_the_models_are_those_of_the_repository(client, raw):
    models = client.models()

    assert [model.name for model in models] == [
        model["name"] for model in raw.get("/v1/models").json()["models"]
    ]
    shapes = next(model for model in models if model.name == "shapes")
    assert (shapes.task, shapes.masks, shapes.input) == ("detect", True, gpusq.Size(160, 120))
    assert shapes.accuracy[0].metric == "mask_ap"
    assert models.limits.max_body_bytes == 10_000_000


def test_a_service_that_is_ready_says_so(client):
    assert client.ready().ready is True
    assert client.ready().models["colours"] == "ready"


@pytest.mark.parametrize(
    ("task", "picture", "options", "status", "code"),
    [
        ("classify", b"no picture", {}, 415, "unsupported_media"),
        ("classify", SCENE[:200], {}, 422, "bad_image"),
        ("classify", b"", {}, 422, "bad_image"),
        ("classify", SCENE, {"model": "none"}, 404, "unknown_model"),
        ("classify", SCENE, {"model": "shapes"}, 422, "wrong_task"),
        ("classify", SCENE, {"top_k": 0}, 422, "invalid_argument"),
        ("detect", SCENE, {"model": "shapes-boxes", "masks": "rle"}, 422, "invalid_argument"),
        ("segment", b"\0" * 10_000_001, {}, 413, "too_many_bytes"),
    ],
)
def test_a_refusal_is_an_error_with_the_words_of_the_service(
    client, task, picture, options, status, code
):
    with pytest.raises(gpusq.RequestRefusedError) as caught:
        getattr(client, task)(picture, **options)

    error = caught.value
    assert (error.status, error.code) == (status, code)
    assert str(error) == error.detail
    assert len(error.request_id) == 36
    assert error.timings_ms["total"] > 0
    assert error.retry_after_s is None
    assert pickle.loads(pickle.dumps(error)).problem == error.problem


def test_what_is_no_picture_is_refused_before_anything_is_sent(client, tmp_path: Path):
    for given, said in [
        (tmp_path / "none.jpg", "No such file"),
        (tmp_path, "directory"),
        ("a\0b", "null"),
        (io.StringIO("text"), "Open it as 'rb'"),
        (7, "got int"),
        (np.zeros((2, 2, 3)), "got ndarray"),
    ]:
        with pytest.raises(gpusq.PictureError, match=said):
            client.classify(given)


def test_answers_cannot_be_changed(client):
    answer = client.classify(SCENE)

    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.model = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.predictions[0].score = 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url"),
        ({"base_url": "ftp://127.0.0.1"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://ann:s3cret@127.0.0.1"}, "leave out user and password"),
        ({"base_url": "ann:s3cret@127.0.0.1:8000"}, "leave out user and password"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "s3cret\n"}, "api_key"),
        ({"api_key": "s3cret€"}, "api_key"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"retries": -1}, "retries"),
    ],
)
@pytest.mark.parametrize("kind", [gpusq.Client, gpusq.AsyncClient])
def test_a_client_of_wrong_arguments_is_not_made(kind, arguments, said):
    with pytest.raises(gpusq.ArgumentError, match=said) as caught:
        kind(**arguments)

    assert isinstance(caught.value, ValueError)
    assert "s3cret" not in str(caught.value)


def test_run_lengths_that_do_not_fill_the_picture_are_refused():
    with pytest.raises(gpusq.AnswerError, match="of 4 x 3 pixels, got 5"):
        gpusq.RunLengths((3, 4), "5").mask()


def test_every_public_name_is_there_and_explained():
    for name in gpusq.__all__:
        assert getattr(gpusq, name).__doc__, name


def test_a_client_that_is_closed_says_so(url: str):
    client = gpusq.Client(url)
    client.close()

    with pytest.raises(gpusq.ArgumentError, match="This client is closed"):
        client.ready()
