"""Segmentation over a real server on the loopback, with a real network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from contract.letterbox import placement
from contract.preprocess import fit
from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.service.asking import post, problem, server_timing
from tests.service.test_contours import filled, without_holes

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# On black, where all channels are equal, the first class is named.
THINGS: dict[str, finding.Box] = {"green": (150, 90, 301, 211), "blue": (20, 24, 120, 100)}
IMAGE = finding.scene((320, 240), THINGS)
SCENE = encoded(IMAGE)


@pytest.fixture(scope="module", params=sorted(choice.RUNTIMES))
def client(
    request: pytest.FixtureRequest, scene_repository: Path, serve: Serve
) -> Iterator[httpx.Client]:
    settings = Settings(repository=scene_repository, executor=request.param, deadline_s=30)
    with serve(create_app(settings, choice.load(settings))) as client:
        yield client


def segmented(client: httpx.Client, data: bytes = SCENE, **query: Any) -> dict[str, Any]:
    answer = post(client, data, task="segment", **query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return np.array(image)


def map_of(answer: dict[str, Any]) -> np.ndarray:
    return opened(base64.b64decode(answer["class_map"], validate=True))


def expected_map(image: Image.Image) -> np.ndarray:
    """Look up, pixel by pixel, what is brightest in the input that the contract makes."""
    width, height = image.size
    pixels = fit(image, finding.FORM)
    columns, rows = placement(image.size, finding.FORM).size_px
    return np.array(
        [
            [
                pixels[(2 * y + 1) * rows // (2 * height), (2 * x + 1) * columns // (2 * width)]
                for x in range(width)
            ]
            for y in range(height)
        ]
    ).argmax(axis=2)


@pytest.mark.parametrize("size_px", [(320, 240), (77, 59), (59, 131), (90, 1), (1, 1)])
def test_the_map_names_each_pixel_of_the_picture(client: httpx.Client, size_px: tuple[int, int]):
    image = IMAGE.resize(size_px)

    answer = segmented(client, encoded(image))

    np.testing.assert_array_equal(map_of(answer), expected_map(image))
    assert answer["image"] == {"width": size_px[0], "height": size_px[1]}
    assert answer["model"] == "areas"


def test_each_class_has_its_name_and_area_the_largest_first(client: httpx.Client):
    answer = segmented(client)

    counts = np.bincount(map_of(answer).ravel())
    assert answer["unseen_px"] == 0
    assert sum(area["area_px"] for area in answer["classes"]) == 320 * 240
    assert answer["classes"] == [
        {
            "label_id": name,
            "label": name,
            "index": index,
            "area_px": counts[index],
            "share": counts[index] / (320 * 240),
        }
        for index, name in enumerate(finding.THINGS)
    ]


def test_a_photo_on_its_side_has_its_map_upright(client: httpx.Client):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = IMAGE.transpose(Image.Transpose.ROTATE_270)

    answer = segmented(client, encoded(IMAGE, exif=exif))

    np.testing.assert_array_equal(map_of(answer), expected_map(upright))


@pytest.mark.parametrize("accept", ["image/png", "image/png, application/json;q=0.5"])
def test_the_map_comes_as_a_png_where_one_is_accepted(client: httpx.Client, accept: str):
    answer = post(client, SCENE, task="segment", accept=accept)

    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(opened(answer.content), map_of(segmented(client)))
    assert list(server_timing(answer))[-2:] == ["postprocess", "total"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "image/png;q=0.2, */*", "image/png;q=x"]
)
def test_where_anything_else_is_rather_accepted_the_answer_is_json(
    client: httpx.Client, accept: str
):
    assert "classes" in post(client, SCENE, task="segment", accept=accept).json()


def test_a_refusal_is_a_problem_even_where_a_png_is_accepted(client: httpx.Client):
    problem(post(client, b"", task="segment", accept="image/png"), 422, "bad_image")


def test_run_lengths_and_polygons_say_what_the_map_says(client: httpx.Client):
    whole = map_of(segmented(client))
    runs = segmented(client, format="rle")
    outlined = segmented(client, format="polygons")

    assert "class_map" not in runs
    assert "class_map" not in outlined
    for one, other in zip(runs["classes"], outlined["classes"], strict=True):
        mask = whole == one["index"]
        plain = {"size": one["rle"]["size"], "counts": one["rle"]["counts"].encode()}
        np.testing.assert_array_equal(coco.decode(plain), mask)
        np.testing.assert_array_equal(filled(other["polygons"], mask.shape), without_holes(mask))


def test_a_model_that_sees_the_middle_says_what_it_did_not_see(client: httpx.Client):
    answer = segmented(client, model="areas-cut")

    found = map_of(answer)
    left, top, right, bottom = placement((320, 240), finding.CUT).box
    inside = np.zeros((240, 320), bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    np.testing.assert_array_equal(found != 255, inside)
    assert answer["unseen_px"] == (~inside).sum() > 0
    assert sum(area["area_px"] for area in answer["classes"]) == inside.sum()


def test_a_parameter_given_twice_is_refused(client: httpx.Client):
    answer = client.post(
        "/v1/segment?format=png&format=rle", content=SCENE, headers={"Content-Type": "image/png"}
    )

    assert (
        "format: expected it once, got 'png', 'rle'."
        in problem(answer, 422, "invalid_argument")["detail"]
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("format", "format: expected png, rle or polygons, got 'x'"),
        ("masks", "'masks'; there are model and format."),
    ],
)
def test_a_wrong_parameter_is_refused(client: httpx.Client, name: str, said: str):
    body = problem(post(client, SCENE, task="segment", **{name: "x"}), 422, "invalid_argument")

    assert said in body["detail"]
