"""The main flows over a real server on the loopback, with real networks."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.openapi.models import OpenAPI
from PIL import Image

from service.executors import choice
from tests import bundles
from tests.conftest import Serve, encoded
from tests.service import asking
from tests.service.asking import (
    JPEG,
    MAX_BODY_BYTES,
    MAX_PIXELS,
    label,
    post,
    problem,
)


@pytest.fixture(scope="module", params=sorted(choice.RUNTIMES))
def client(
    request: pytest.FixtureRequest, repository: Path, serve: Serve
) -> Iterator[httpx.Client]:
    with asking.serving(repository, serve, request.param) as client:
        yield client


def grey_16_bit() -> bytes:
    return encoded(Image.fromarray(np.full((20, 20), 3_000, np.uint16)))


def half_transparent() -> bytes:
    # The hidden colour is green; laid on white, a little red remains.
    image = Image.new("RGBA", (20, 20), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 20, 16))
    return encoded(image)


def on_its_side() -> bytes:
    # Blue left half; upright, 6 turns it to the top, and the cut takes the middle.
    image = Image.new("RGB", (60, 20), "green")
    image.paste("blue", (0, 0, 38, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


PICTURES = {
    "JPEG": (encoded(Image.new("RGB", (64, 48), "red"), "JPEG"), "red"),
    "progressive JPEG": (
        encoded(Image.new("RGB", (64, 48), "red"), "JPEG", progressive=True),
        "red",
    ),
    "WebP": (encoded(Image.new("RGB", (64, 48), "blue"), "WEBP"), "blue"),
    "palette": (encoded(Image.new("RGB", (20, 20), (0, 255, 0)).convert("P")), "green"),
    "CMYK": (encoded(Image.new("CMYK", (20, 20), (255, 255, 0, 0)), "JPEG"), "blue"),
    "alpha": (half_transparent(), "red"),
    "16-bit, dark": (grey_16_bit(), "black"),
    "one pixel": (encoded(Image.new("RGB", (1, 1), "red")), "red"),
    "a strip": (encoded(Image.new("RGB", (2000, 2), "red")), "red"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture_comes_out_right(client: httpx.Client, kind: str):
    data, expected = PICTURES[kind]

    assert label(post(client, data, "application/octet-stream")) == expected


def test_the_answer_is_what_the_hand_computes(client: httpx.Client):
    answer = post(client, encoded(Image.new("RGB", (30, 20), (255, 0, 51)))).json()

    scores = bundles.colour_scores(1, 0, 0.2)
    expected = sorted(zip(bundles.COLOURS, scores, strict=True), key=lambda pair: -pair[1])
    assert [p["label"] for p in answer["predictions"]] == [name for name, _ in expected]
    found = [p["score"] for p in answer["predictions"]]
    # float32 against float64
    assert found == pytest.approx([score for _, score in expected], abs=1e-5)
    assert (answer["model"], answer["version"]) == ("colours", 1)
    assert answer["predictions"][0] == {
        "label_id": "red",
        "label": "red",
        "index": 0,
        "score": found[0],
    }


def test_a_photo_on_its_side_is_turned_and_measured_upright(client: httpx.Client):
    answer = post(client, on_its_side(), "image/jpeg")

    assert label(answer) == "blue"
    assert answer.json()["image"] == {"width": 20, "height": 60}


def test_the_size_is_the_picture_s_even_if_it_was_decoded_at_less(client: httpx.Client):
    data = encoded(Image.new("RGB", (801, 600), "red"), "JPEG")

    assert post(client, data).json()["image"] == {"width": 801, "height": 600}


@pytest.mark.parametrize("field", ["image", "file", "whatever"])
def test_a_form_with_one_file_is_a_picture(client: httpx.Client, red_jpeg: bytes, field: str):
    files = {field: ("red.jpg", red_jpeg, "image/jpeg")}

    assert label(client.post("/v1/classify", files=files)) == "red"


def test_of_several_files_the_one_named_image_counts(client: httpx.Client, red_jpeg: bytes):
    files = {"image": ("red.jpg", red_jpeg), "thumbnail": ("t.jpg", b"no picture")}

    assert label(client.post("/v1/classify", files=files)) == "red"


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "multipart/form-data", "no boundary"),
        (b"", "multipart/form-data; boundary=x", "cut off"),
        (b"not a form", "multipart/form-data; boundary=x",
         "cannot be read: its parts are not as the boundary in its Content-Type says. Send"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
         "multipart/form-data; boundary=x", "the field 'a' is no file"),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", "got 0"),
        (b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\ncut o',
         "multipart/form-data; boundary=x", "cut off"),
        (b"--x\r\n\r\n\r\n" * 17 + b"--x--", "multipart/form-data; boundary=x", "at most 16 parts"),
    ],
)  # fmt: skip
def test_a_form_without_a_file_is_malformed(
    client: httpx.Client, content: bytes, kind: str, said: str
):
    assert said in problem(post(client, content, kind), 400, "bad_request")["detail"]


def test_two_files_are_one_too_many(client: httpx.Client, red_jpeg: bytes):
    files = {"a": ("a.jpg", red_jpeg), "b": ("b.jpg", red_jpeg)}

    body = problem(client.post("/v1/classify", files=files), 400, "bad_request")

    assert "got 2" in body["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", ""])
def test_another_content_type_is_told_what_to_send(client: httpx.Client, kind: str):
    body = problem(post(client, b"{}", kind), 415, "unsupported_media")

    assert "image/jpeg" in body["detail"]
    assert "multipart/form-data" in body["detail"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "bad_image"),
        (b"GET / HTTP/1.1\r\n\r\n", 415, "unsupported_media"),
        (b"<!doctype html><title>x", 415, "unsupported_media"),
        (b"%!PS-Adobe-3.0", 415, "unsupported_media"),
        (PICTURES["JPEG"][0][:300], 422, "bad_image"),
        (PICTURES["palette"][0][:60], 422, "bad_image"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), 415, "unsupported_media"),
        (encoded(Image.new("1", (1001, 1000))), 422, "too_many_pixels"),
    ],
)
def test_what_is_no_picture_gets_a_problem(
    client: httpx.Client, data: bytes, status: int, code: str
):
    problem(post(client, data), status, code)


def test_a_body_that_declares_too_many_bytes_is_not_read(client: httpx.Client):
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as raw:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n"
        raw.sendall(head.encode() + b"Content-Type: image/png\r\n\r\n")
        answer = raw.makefile("rb").read()  # to the end: the server closes

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"too_many_bytes" in answer


def test_a_body_that_does_not_declare_its_length_is_counted(client: httpx.Client):
    chunks = (b"x" * 50_000 for _ in range(10))

    answer = client.post("/v1/classify", content=chunks, headers=JPEG)

    assert f"{MAX_BODY_BYTES:,}" in problem(answer, 413, "too_many_bytes")["detail"]


def test_a_body_at_the_limit_is_read(client: httpx.Client):
    problem(post(client, b"x" * MAX_BODY_BYTES), 415, "unsupported_media")
    problem(post(client, b"x" * (MAX_BODY_BYTES + 1)), 413, "too_many_bytes")


def test_a_model_is_chosen_by_name(client: httpx.Client, red_jpeg: bytes):
    answer = post(client, red_jpeg, model="more-colours").json()

    assert answer["model"] == "more-colours"
    assert len(answer["predictions"]) == 5


def test_an_unknown_model_is_told_which_there_are(client: httpx.Client):
    body = problem(post(client, b"", model="resnet"), 404, "unknown_model")

    assert "colours, more-colours" in body["detail"]


def test_an_unavailable_model_says_why(client: httpx.Client):
    body = problem(post(client, b"", model="broken"), 503, "model_unavailable")

    assert "refuses model.onnx" in body["detail"]


@pytest.mark.parametrize(("top_k", "named"), [(1, 1), (4, 4), (100, 4)])
def test_top_k_says_how_many_classes_are_named(
    client: httpx.Client, red_jpeg: bytes, top_k: int, named: int
):
    assert len(post(client, red_jpeg, top_k=top_k).json()["predictions"]) == named


@pytest.mark.parametrize("top_k", ["0", "101", "-1", "many", "1.5"])
def test_top_k_out_of_range_is_refused(client: httpx.Client, red_jpeg: bytes, top_k: str):
    body = problem(post(client, red_jpeg, top_k=top_k), 422, "invalid_argument")

    expected = "expected a whole number from 1 to 100"
    assert body["detail"] == f"top_k: {expected}, got '{top_k}'. Correct it, or leave it out."
    assert body["title"] == "A parameter is not as expected"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("topk", "'topk'; there are model and top_k. Did you mean top_k?"),
        ("threshold", "'threshold'; there are model and top_k. Leave it out."),
        ("x" * 60_000, f"'{'x' * 40}…'; there are"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_known_names(
    client: httpx.Client, red_jpeg: bytes, name: str, said: str
):
    body = problem(post(client, red_jpeg, **{name: "3"}), 422, "invalid_argument")

    assert f"There is no parameter {said}" in body["detail"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("top_k=1&top_k=5", "top_k: expected it once, got '1', '5'. Leave one of them."),
        ("top_k=2&top_k=2", "got '2', '2'."),
        ("top_k=&top_k=2&top_k=x&top_k=4", "got '', '2', 'x', …. Leave"),
        ("model=colours&top_k=1&model=", "model: expected it once, got 'colours', ''."),
        ("topk=1&topk=2", "There is no parameter 'topk'"),
    ],
)
def test_a_parameter_given_twice_is_refused(
    client: httpx.Client, red_jpeg: bytes, query: str, said: str
):
    answer = client.post(f"/v1/classify?{query}", content=red_jpeg, headers=JPEG)

    assert said in problem(answer, 422, "invalid_argument")["detail"]


def test_the_models_are_described(client: httpx.Client, repository: Path):
    answer = client.get("/v1/models").json()

    by_name = {model["name"]: model for model in answer["models"]}
    assert list(by_name) == ["broken", "colours", "more-colours"]
    assert answer["limits"] == {"max_body_bytes": MAX_BODY_BYTES, "max_pixels": MAX_PIXELS}
    colours = by_name["colours"]
    assert colours.pop("executor") in choice.RUNTIMES
    file = repository / "colours" / "1" / "model.onnx"
    assert colours.pop("file_bytes") == file.stat().st_size
    assert colours == {
        "name": "colours",
        "state": "ready",
        "behind": None,
        "default": True,
        "reason": None,
        "version": 1,
        "task": "classify",
        "description": "Names the colour of a picture.",
        "input": {"width": 8, "height": 8},
        "precision": {"weights": "float32", "activations": "float32"},
        "sparsity": "dense",
        "classes": 4,
        "masks": None,
        "accuracy": [
            {
                "data": "a hundred plain squares",
                "metric": "top1",
                "images": 100,
                "teacher": 1.0,
                "sparse": None,
                "quantized": 1.0,
            }
        ],
    }
    assert by_name["broken"]["state"] == "unavailable"
    assert "refuses model.onnx" in by_name["broken"]["reason"]


def test_readiness_says_which_models_are_unavailable(client: httpx.Client):
    answer = client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "models": {"colours": "ready", "more-colours": "ready", "broken": "unavailable"},
    }


def test_the_process_is_alive(client: httpx.Client):
    assert client.get("/healthz").text == "ok\n"


def test_an_unknown_path_and_a_wrong_method_are_problems(client: httpx.Client):
    problem(client.get("/v1/look"), 404, "not_found")
    problem(client.get("/v1/models/", headers={"Host": "elsewhere"}), 404, "not_found")
    answer = client.get("/v1/classify")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/assets/page.css", "/healthz", "/readyz", "/v1/models", "/openapi.json"],
)
def test_head_is_get_without_the_body(client: httpx.Client, path: str):
    whole, head = client.get(path), client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "x-content-type-options"):
        assert head.headers[name] == whole.headers[name]


def test_head_is_refused_where_get_is(client: httpx.Client):
    answer = client.head("/v1/classify")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/models", "/docs", "/assets/page.css"])
def test_a_slash_too_many_is_told_where_it_is(client: httpx.Client, red_jpeg: bytes, path: str):
    for answer in (client.get(f"{path}/"), client.post(f"{path}//", content=red_jpeg)):
        body = problem(answer, 404, "not_found")
        assert body["detail"].endswith(f": ask {path}, without the slash at the end.")
    assert "slash" not in problem(client.get("/v1/nothing/"), 404, "not_found")["detail"]


def test_the_openapi_document_is_valid_and_describes_bodies_and_problems(client: httpx.Client):
    document = client.get("/openapi.json").json()

    OpenAPI.model_validate(document)
    operation = document["paths"]["/v1/classify"]["post"]
    assert {"image/jpeg", "application/octet-stream", "multipart/form-data"} <= set(
        operation["requestBody"]["content"]
    )
    assert {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504"} == set(
        operation["responses"]
    )
    refused = operation["responses"]["422"]["content"]["application/problem+json"]
    assert set(refused["examples"]) == {
        "invalid_argument",
        "too_many_pixels",
        "bad_image",
        "fetch_failed",
        "wrong_task",
    }
    references = set(re.findall(r'"#/components/schemas/(\w+)"', str(document).replace("'", '"')))
    assert references <= set(document["components"]["schemas"])


def test_one_line_a_request_is_logged_and_no_client_can_break_it(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, logger="service.access"):
        answer = client.get("/no%0Asuch?a=%0A1")

    # The line is written once the answer is out.
    while not caplog.records:
        time.sleep(0.005)
    (line,) = [record.getMessage() for record in caplog.records]
    assert '"GET /no%0Asuch?a=%0A1" 404' in line
    assert line.endswith(answer.headers["x-request-id"])
