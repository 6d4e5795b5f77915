import re
from http import HTTPStatus
from pathlib import Path

import grpc
import pytest

from contract.errors import ImageError, ImageFault
from service.errors import IMAGE_FAULTS, Code, of_image
from service.rest.problems import STATUS, TITLES
from service.rpc import failures

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")


def test_rest_has_a_status_and_a_title_for_every_code():
    assert set(STATUS) == set(Code) == set(TITLES)
    assert all(400 <= status < 600 for status in STATUS.values())


def test_grpc_has_a_failure_for_every_code():
    assert set(failures.STATUS) == set(Code)
    # What gRPC itself says when a handler breaks; no code of ours may look like that.
    assert not {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN} & set(failures.STATUS.values())


def test_every_way_a_picture_can_fail_has_a_code():
    assert set(IMAGE_FAULTS) == set(ImageFault)


@pytest.mark.parametrize("code", Code)
def test_every_code_is_documented_with_its_status(code: Code):
    rpc = failures.STATUS[code].name

    assert re.search(
        rf"^\| `{code.value}` \| {STATUS[code].value} \| `{rpc}` \|", PAGE, re.MULTILINE
    )


def test_an_image_error_keeps_its_words():
    error = of_image(ImageError(ImageFault.DAMAGED, "cut off at row 7"))

    assert (error.code, error.detail) == (Code.BAD_IMAGE, "cut off at row 7")
    assert STATUS[error.code] is HTTPStatus.UNPROCESSABLE_ENTITY
