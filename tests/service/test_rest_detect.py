"""Detection over a real server on the loopback, with a real network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.service.asking import post, problem, server_timing
from tests.service.test_contours import filled

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Box = finding.Box
THINGS: dict[str, Box] = {"red": (20, 24, 120, 100), "blue": (150, 80, 301, 221)}
SCENE = encoded(finding.scene((320, 240), THINGS))


@pytest.fixture(scope="module", params=sorted(choice.RUNTIMES))
def client(
    request: pytest.FixtureRequest, scene_repository: Path, serve: Serve
) -> Iterator[httpx.Client]:
    settings = Settings(repository=scene_repository, executor=request.param, deadline_s=30)
    with serve(create_app(settings, choice.load(settings))) as client:
        yield client


def detections(
    client: httpx.Client, data: bytes = SCENE, kind: str = "image/png", **query: Any
) -> list[dict[str, Any]]:
    answer = post(client, data, kind, task="detect", **query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["detections"]
    return found


def sides(detection: dict[str, Any]) -> tuple[float, ...]:
    return tuple(detection["box"][side] for side in ("left", "top", "right", "bottom"))


def decoded(runs: dict[str, Any]) -> np.ndarray:
    return coco.decode({"size": runs["size"], "counts": runs["counts"].encode()}).astype(bool)


def painted(name: str) -> np.ndarray:
    return np.array(finding.scene((320, 240), {name: THINGS[name]})).any(axis=2)


def test_things_are_found_with_their_names_and_scores(client: httpx.Client):
    answer = post(client, SCENE, task="detect", min_score=0.1).json()

    assert (answer["model"], answer["version"]) == ("shapes", 1)
    assert answer["image"] == {"width": 320, "height": 240}
    red, blue = answer["detections"]
    assert red.pop("score") == pytest.approx(0.9)
    assert blue.pop("score") == pytest.approx(0.2)
    # Half a pixel of the network's input is one of the picture.
    assert sides(red) == pytest.approx(THINGS["red"], abs=1)
    assert sides(blue) == pytest.approx(THINGS["blue"], abs=1)
    del red["box"], blue["box"]
    assert red == {"label_id": "red", "label": "red", "index": 0}
    assert blue == {"label_id": "blue", "label": "blue", "index": 2}


@pytest.mark.parametrize(
    ("size_px", "box"),
    [
        ((160, 120), (20, 10, 61, 47)),
        ((77, 59), (11, 13, 40, 44)),
        ((59, 77), (3, 5, 58, 76)),
        ((151, 33), (1, 2, 99, 30)),
        ((33, 101), (4, 50, 29, 100)),
        ((100, 1), (20, 0, 71, 1)),
        ((1, 100), (0, 33, 1, 87)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_a_box_is_that_of_the_picture_to_less_than_a_pixel(
    client: httpx.Client, size_px: tuple[int, int], box: Box
):
    data = encoded(finding.scene(size_px, {"green": box}, "rectangle"))

    (found,) = detections(client, data)

    assert sides(found) == pytest.approx(box, abs=0.99)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_that_of_the_upright_picture(client: httpx.Client, orientation: int):
    box = (20, 8, 60, 30)
    stored = finding.scene((100, 64), {"red": box}, "rectangle")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    left, top, right, bottom = box
    if orientation in (2, 3, 7, 6):
        left, right = (100 - right, 100 - left) if orientation < 5 else (left, right)
    if orientation in (3, 4):
        top, bottom = 64 - bottom, 64 - top
    if orientation >= 5:
        # Transposed; then 6 and 7 turn the new axis across, 7 and 8 the one down.
        left, top, right, bottom = top, left, bottom, right
        if orientation in (6, 7):
            left, right = 64 - right, 64 - left
        if orientation in (7, 8):
            top, bottom = 100 - bottom, 100 - top

    (found,) = detections(client, data)

    assert sides(found) == pytest.approx((left, top, right, bottom), abs=0.99)


def test_a_large_jpeg_that_is_decoded_at_a_fraction_has_boxes_at_its_own_size(
    client: httpx.Client,
):
    box = (200, 300, 1600, 1100)
    image = finding.scene((2401, 1803), {"red": box}, "rectangle")

    answer = post(client, encoded(image, "JPEG", quality=95), "image/jpeg", task="detect").json()

    assert answer["image"] == {"width": 2401, "height": 1803}
    # Half a pixel of the network's input is 7.5 of the picture.
    assert sides(answer["detections"][0]) == pytest.approx(box, abs=8)


def test_a_model_that_sees_the_middle_has_its_boxes_in_the_whole_picture(client: httpx.Client):
    box = (120, 50, 200, 140)
    data = encoded(finding.scene((320, 240), {"green": box}, "rectangle"))

    (found,) = detections(client, data, model="shapes-cut")

    # 240 rows become 160.
    assert sides(found) == pytest.approx(box, abs=0.99)


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ({}, ["red"]),
        ({"min_score": 0}, ["red", "blue"]),
        ({"min_score": 1}, []),
        ({"min_score": 0, "max_detections": 1}, ["red"]),
    ],
)
def test_a_request_chooses_how_many_are_answered(
    client: httpx.Client, query: dict[str, Any], labels: list[str]
):
    assert [found["label"] for found in detections(client, **query)] == labels


def test_masks_come_as_run_lengths_that_lie_on_what_was_painted(client: httpx.Client):
    found = detections(client, min_score=0.1, masks="rle")

    for detection in found:
        mask, expected = decoded(detection["rle"]), painted(detection["label"])
        assert mask.shape == (240, 320)
        # A cell of the mask is up to five pixels wide.
        assert (mask & expected).sum() / (mask | expected).sum() > 0.95


def test_masks_come_as_polygons_that_say_the_same(client: httpx.Client):
    runs = detections(client, min_score=0.1, masks="rle")
    outlined = detections(client, min_score=0.1, masks="polygons")

    for one, other in zip(runs, outlined, strict=True):
        assert "rle" not in other
        np.testing.assert_array_equal(filled(other["polygons"], (240, 320)), decoded(one["rle"]))


def test_masks_of_a_model_with_boxes_only_are_refused(client: httpx.Client):
    assert [found["label"] for found in detections(client, model="shapes-boxes")] == ["red"]

    answer = post(client, SCENE, task="detect", model="shapes-boxes", masks="rle")

    assert "gives boxes only" in problem(answer, 422, "invalid_argument")["detail"]


def test_a_parameter_given_twice_is_refused(client: httpx.Client):
    answer = client.post(
        "/v1/detect?masks=rle&masks=none", content=SCENE, headers={"Content-Type": "image/png"}
    )

    assert (
        "masks: expected it once, got 'rle', 'none'."
        in problem(answer, 422, "invalid_argument")["detail"]
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("min_score", "1.5", "min_score: expected a number from 0 to 1, got '1.5'. Correct it"),
        ("min_score", "high", "expected a number from 0 to 1, got 'high'"),
        ("min_score", "nan", "expected a number from 0 to 1, got 'nan'"),
        ("max_detections", "0", "expected a whole number from 1 to 1000, got '0'"),
        ("masks", "png", "masks: expected none, rle or polygons, got 'png'"),
        ("top_k", "3", "'top_k'; there are model, min_score, max_detections and masks."),
        ("mask", "rle", "Did you mean masks?"),
    ],
)
def test_a_wrong_parameter_is_refused(client: httpx.Client, name: str, value: str, said: str):
    body = problem(post(client, SCENE, task="detect", **{name: value}), 422, "invalid_argument")

    assert said in body["detail"]


@pytest.mark.parametrize(
    ("query", "model", "code"),
    [
        ({"min_score": 2}, "shapes", "invalid_argument"),
        ({"model": "areas"}, "areas", "wrong_task"),
        ({"model": "shapes-boxes", "masks": "rle"}, "shapes-boxes", "invalid_argument"),
        ({"model": "resnet"}, "", "unknown_model"),
    ],
)
def test_a_refusal_is_counted_for_its_model(
    client: httpx.Client, query: dict[str, Any], model: str, code: str
):
    def counted() -> float:
        line = f'gpusq_requests_total{{model="{model}",outcome="{code}",task="detect"}} '
        found = client.get("/metrics").text.partition(line)[2].partition("\n")[0]
        return float(found or 0)

    before = counted()
    assert post(client, SCENE, task="detect", **query).json()["code"] == code

    assert counted() == before + 1


@pytest.mark.parametrize(
    ("task", "model", "does", "able"),
    [
        ("classify", "shapes", "detect", "colours"),
        ("detect", "areas", "segment", "shapes, shapes-boxes, shapes-cut"),
        ("segment", "colours", "classify", "areas, areas-cut"),
    ],
)
def test_a_model_of_another_task_is_told_its_route(
    client: httpx.Client, task: str, model: str, does: str, able: str
):
    body = problem(post(client, SCENE, task=task, model=model), 422, "wrong_task")

    assert body["detail"] == (
        f"The model '{model}' can {does}, it cannot {task}. Models that can: {able}. "
        f"Send the picture to /v1/{does}, or name one of those."
    )


def test_each_task_has_its_default_model(client: httpx.Client):
    models = {model["name"]: model for model in client.get("/v1/models").json()["models"]}

    assert {name for name, model in models.items() if model["default"]} == {
        "colours", "shapes", "areas",
    }  # fmt: skip
    assert {model["name"]: model["masks"] for model in models.values()} == {
        "areas": None, "areas-cut": None, "colours": None,
        "shapes": True, "shapes-boxes": False, "shapes-cut": True,
    }  # fmt: skip
    assert models["shapes"]["task"] == "detect"
    assert models["shapes"]["accuracy"][0]["metric"] == "mask_ap"


def test_the_stages_are_told_and_counted_by_model(client: httpx.Client):
    def counted() -> float:
        line = 'gpusq_stage_seconds_count{model="shapes",stage="postprocess",task="detect"} '
        text = client.get("/metrics").text
        return float(text.partition(line)[2].partition("\n")[0])

    before = counted()
    answer = post(client, SCENE, task="detect")

    assert server_timing(answer) == answer.json()["timings_ms"]
    assert list(answer.json()["timings_ms"]) == [
        "read", "decode", "preprocess", "queue", "infer", "postprocess", "total",
    ]  # fmt: skip
    assert counted() == before + 1


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_what_is_no_picture_is_the_same_problem_for_every_task(client: httpx.Client, task: str):
    problem(post(client, b"no picture", task=task), 415, "unsupported_media")
    problem(post(client, SCENE[:200], task=task), 422, "bad_image")
    problem(post(client, SCENE, task=task, model="resnet"), 404, "unknown_model")
    problem(post(client, SCENE, "text/plain", task=task), 415, "unsupported_media")
    answer = client.get(f"/v1/{task}")
    problem(answer, 405, "method_not_allowed")
    assert 'outcome="method_not_allowed"' in client.get("/metrics").text


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_task_is_described_for_clients(client: httpx.Client, task: str):
    document = client.get("/openapi.json").json()

    operation = document["paths"][f"/v1/{task}"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    named = [one["$ref"].rpartition("/")[2] for one in schema["anyOf"]]
    described = document["components"]["schemas"][named[0]]
    assert f"Answers_{named[0]}_" in named
    assert set(described["required"]) <= set(described["example"]) <= set(described["properties"])
    assert "wrong_task" in str(operation["responses"]["422"])
