"""Whatever comes over gRPC gets a status that means something, and the service lives on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.executors import choice
from service.rpc.gpusq.v1 import vision_pb2
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.service import calling
from tests.service.calling import REQUESTS, Both, failure, message, method, raw

ROOT = Path(__file__).parents[2]
PROTO = "service/rpc/gpusq/v1/vision.proto"
PICTURE = encoded(finding.scene((40, 30), {"red": (2, 3, 20, 18)}))
# Wide rather than deep: what is slow is the network.
SEARCH = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
INT32 = st.integers(-(2**31), 2**31 - 1)
IMAGES = st.one_of(
    st.binary(max_size=300),
    st.just(PICTURE),
    # Whole but for one stretch.
    st.builds(
        lambda at, other: PICTURE[:at] + other + PICTURE[at + len(other) :],
        st.integers(0, len(PICTURE)),
        st.binary(max_size=8),
    ),
)
NAMES = ["", "colours", "shapes", "areas", "shapes-boxes"]
# All of Unicode takes Hypothesis seconds to set up.
MODELS = st.sampled_from(NAMES) | st.text("a'\n%é\N{SNOWMAN}\0")


@pytest.fixture(scope="module")
def both(scene_repository: Path, serve: Serve) -> Iterator[Both]:
    limits = Settings(repository=scene_repository, deadline_s=30, max_pixels=100_000)
    with calling.both(serve, limits, choice.load(limits)) as both:
        yield both


def answered(both: Both, name: str, request: bytes) -> bool:
    """Return whether there was an answer; a failure has to be the client's, and whole."""
    try:
        raw(both.channel, name)(request, timeout=30)
    except grpc.RpcError as error:
        came = failure(error)
        assert came.status in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), came
        return False
    return True


@SEARCH
@given(name=st.sampled_from(sorted(REQUESTS)), request=st.binary(max_size=200))
def test_any_bytes_as_a_message(both: Both, name: str, request: bytes):
    answered(both, name, request)


@SEARCH
@given(image=IMAGES, model=MODELS, top_k=st.none() | INT32)
def test_any_classification(both: Both, image: bytes, model: str, top_k: int | None):
    request = message("Classify", image=image, model=model, top_k=top_k)

    answered(both, "Classify", request.SerializeToString())


@SEARCH
@given(
    image=IMAGES,
    model=MODELS,
    min_score=st.none() | st.floats(),
    max_detections=st.none() | INT32,
    masks=st.integers(0, 3) | INT32,
)
def test_any_detection(
    both: Both,
    image: bytes,
    model: str,
    min_score: float | None,
    max_detections: int | None,
    masks: int,
):
    request = message("Detect", image=image, model=model, min_score=min_score,
                      max_detections=max_detections, masks=masks)  # fmt: skip

    answered(both, "Detect", request.SerializeToString())


@SEARCH
@given(image=IMAGES, model=MODELS, format_=st.integers(0, 3) | INT32)
def test_any_segmentation(both: Both, image: bytes, model: str, format_: int):
    request = message("Segment", image=image, model=model, format=format_)

    answered(both, "Segment", request.SerializeToString())


@pytest.mark.parametrize("name", ["Classify", "Detect", "Segment"])
def test_what_a_newer_client_adds_is_passed_over(both: Both, name: str):
    request = message(name, image=PICTURE).SerializeToString()

    # Field 99, seven bytes.
    assert answered(both, name, request + b"\x9a\x06\x07unknown")


def test_the_choices_of_a_request_can_be_left_out(both: Both):
    found = method(both.channel, "Detect")(message("Detect", image=PICTURE), timeout=20)

    assert found.detections[0].label == "red"
    assert not found.detections[0].HasField("rle")


def test_the_generated_code_is_what_the_generator_gives(tmp_path: Path):
    tools = pytest.importorskip("grpc_tools", reason="the generator is not installed")
    committed = Path(vision_pb2.__file__)
    arguments = ["--proto_path=.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", PROTO]

    subprocess.run(
        [sys.executable, "-m", f"{tools.__name__}.protoc", *arguments], check=True, cwd=ROOT
    )

    made = tmp_path / committed.relative_to(ROOT)
    if version_of(made) != version_of(committed):
        pytest.skip(f"generated with {version_of(committed)}, installed is {version_of(made)}")
    assert made.read_text() == committed.read_text()
    assert made.with_suffix(".pyi").read_text() == committed.with_suffix(".pyi").read_text()


def version_of(generated: Path) -> str:
    (line,) = (line for line in generated.read_text().splitlines() if "Python Version" in line)
    return line.removeprefix("# ")
