"""Tensors of a request: what is a batch of pictures, and that nothing else is taken for one."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Code, GatewayError
from service.oip.tensors import UNNAMED, Tensor, batch
from tests.service.fakes import FakeExecutor
from tests.service.inferring import elements

MODEL = replace(FakeExecutor().models["colours"], max_batch=2)
IMAGES = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
MAX_PICTURE_BYTES = 100


def image(data: Any, shape: tuple[int, ...] = (2, 8, 8, 3), datatype: str = "UINT8") -> Tensor:
    return Tensor("image", datatype, shape, data)


def taken(*tensors: Tensor) -> Any:
    return batch(MODEL, tensors, MAX_PICTURE_BYTES)


def refused(*tensors: Tensor, code: Code = Code.INVALID_ARGUMENT) -> str:
    with pytest.raises(GatewayError) as caught:
        taken(*tensors)
    assert caught.value.code is code
    return caught.value.detail


@pytest.mark.parametrize(
    "data",
    [IMAGES.tobytes(), memoryview(IMAGES.tobytes()), IMAGES.tolist(), IMAGES.ravel().tolist()],
    ids=["bytes", "a part of a body", "nested", "flat"],
)
def test_pixels_come_as_they_were_sent(data: Any):
    np.testing.assert_array_equal(taken(image(data)), IMAGES)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("data", [elements(b"one", b""), [b"one", b""]])
def test_encoded_pictures_come_one_by_one(shape: tuple[int, ...], data: Any):
    assert taken(image(data, shape, "BYTES")) == [b"one", b""]


def test_an_input_without_a_word_is_one_picture_as_pixels_or_encoded():
    pixels = IMAGES[1:].tobytes()

    np.testing.assert_array_equal(taken(image(pixels, (), UNNAMED)), IMAGES[1:])
    assert taken(image(b"\x89PNG and more", (), UNNAMED)) == [b"\x89PNG and more"]
    # As long as pixels would be.
    jpeg = b"\xff\xd8\xff" + bytes(8 * 8 * 3 - 3)
    longer = batch(MODEL, [image(jpeg, (), UNNAMED)], 1000)
    assert longer == [jpeg]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (image(b"", (2, 8, 8, 3), "FP32"), "got 'FP32' [2, 8, 8, 3]."),
        (image(b"", (2, 3, 8, 8)), "got 'UINT8' [2, 3, 8, 8]."),
        (image(b"", (8, 8, 3)), "got 'UINT8' [8, 8, 3]."),
        (image(b"", ()), "got 'UINT8' []."),
        (image(b"", (), "BYTES"), "got 'BYTES' []."),
        (image(b"", (1, 2), "BYTES"), "got 'BYTES' [1, 2]."),
        (image(b"", (1,) * 64), "got 'UINT8' of 64 axes."),
        (image(b"", (1,), "X" * 500), f"got '{'X' * 40}…' [1]."),
        (image(b"", (3, 8, 8, 3)), "takes 1 to 2 pictures at once, got 3. Send them in several"),
        (image(b"", (0, 8, 8, 3)), "takes 1 to 2 pictures at once, got 0."),
        (image(b"", (-1,), "BYTES"), "takes 1 to 2 pictures at once, got -1."),
        (image(bytes(383)), "'image' [2, 8, 8, 3] needs 384 values of one byte, got 383."),
        (image([0] * 385), "needs 384 values of one byte, got 385."),
        (image([]), "got 0."),
        (image([0.5]), "expected whole numbers from 0 to 255"),
        (image([256]), "expected whole numbers from 0 to 255"),
        (image([[1], 2]), "expected whole numbers from 0 to 255"),
        (image(["12"]), "expected whole numbers from 0 to 255"),
        (image([None]), "expected whole numbers from 0 to 255"),
        (image(["text"], (1,), "BYTES"), "Encoded pictures are no text"),
        (image([b"one"], (2,), "BYTES"), "'image' [2] needs 2 pictures, got 1."),
        (image(elements(b"one"), (2,), "BYTES"), "'image' [2] needs 2 pictures, got 1."),
        (image(elements(b"one", b"two"), (1,), "BYTES"), "needs 1 pictures, each behind"),
        (image(elements(b"one")[:-1], (1,), "BYTES"), "each behind its length, 4 bytes"),
        (image(b"\x01\x00", (1,), "BYTES"), "got 2 bytes that are not so."),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_told_what_is_expected(tensor: Tensor, said: str):
    assert said in refused(tensor)


def test_a_refusal_says_what_the_network_takes():
    assert refused(image(b"", (2, 8, 8), "INT64")) == (
        "Expected 'image' as UINT8 [b, 8, 8, 3], or encoded pictures as BYTES [b] or [b, 1], with "
        "b from 1 to 2; got 'INT64' [2, 8, 8]."
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "Expected one input, 'image', got none."),
        (["pixels"], "got 'pixels'."),
        (["image", "image"], "got 'image', 'image'."),
        (["a", "b", "c", "d"], "got 'a', 'b', 'c', …."),
    ],
)
def test_there_is_one_input(names: list[str], said: str):
    assert said in refused(*(Tensor(name, "UINT8", (1,), b"") for name in names))


def test_a_picture_that_is_too_large_is_refused():
    large = image([b"x", b"x" * 101], (2,), "BYTES")

    assert "may have 100 bytes, this one has 101" in refused(large, code=Code.TOO_MANY_BYTES)


@given(st.binary(max_size=40), st.integers(-2, 4))
def test_any_bytes_are_pictures_or_refused(data: bytes, count: int):
    with contextlib.suppress(GatewayError):
        pictures = taken(image(data, (count,), "BYTES"))
        assert len(pictures) == count
        assert elements(*pictures) == data


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=2), st.integers(0, 2**32 - 1))
def test_a_length_that_is_wrong_is_never_followed(pictures: list[bytes], length: int):
    data = bytearray(elements(*pictures))
    data[:4] = struct.pack("<I", length)
    tensor = image(bytes(data), (len(pictures),), "BYTES")

    if length == len(pictures[0]):
        assert taken(tensor) == pictures
    elif length > len(data) - 4:
        refused(tensor)
