"""Tensors as the protocol has them, and the batch of pictures that a request's tensor is."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

from service.errors import Code, GatewayError, shown
from service.executors.executor import Images, Model

# The protocol's name of each type that a network here has, by NumPy's.
DATATYPES: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
}
INPUT: Final = "image"
# The type of an input that came without a word about it.
UNNAMED: Final = ""
PIXELS: Final = "UINT8"
_FILES: Final = "BYTES"
# Each element of a BYTES tensor follows its own length.
_LENGTH_BYTES: Final = 4
# JPEG, PNG, WebP.
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
# What Triton's clients can ask for of a tensor and get silently wrong where it is ignored.
_UNOFFERED: Final = {
    "shared_memory_region": "Shared memory is neither read nor written. Send tensors themselves.",
    "classification": "Classes are not named here. Ask /v1/classify or gpusq.v1.Vision for them.",
}


@dataclass(frozen=True)
class Tensor:
    """One input of a request, as it came.

    Args:
        name: Its name.
        datatype: The protocol's name of its type, or :data:`UNNAMED`.
        shape: Its lengths.
        data: Its bytes, row by row and little-endian; or its values one by one, lists of lists too.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | Sequence[Any]


def batch(model: Model, tensors: Sequence[Tensor], max_picture_bytes: int) -> Images | list[bytes]:
    """Return what the inputs of a request are: pixels, or pictures that are to be decoded.

    Args:
        model: Which network is asked.
        tensors: The inputs.
        max_picture_bytes: How large a picture to be decoded may be.

    Raises:
        GatewayError: They are not what the network takes, or are more than it takes at once.
    """
    if [tensor.name for tensor in tensors] != [INPUT]:
        came = ", ".join(shown(tensor.name) for tensor in tensors[:3]) or "none"
        more = ", …" if len(tensors) > 3 else ""
        raise refusal(f"Expected one input, {INPUT!r}, got {came}{more}.")
    image = _named(model, tensors[0])
    if image.datatype == _FILES and image.shape and image.shape[1:] in ((), (1,)):
        _require_batch(model, image)
        return _files(image, max_picture_bytes)
    size = model.card.preprocessing
    if image.datatype == PIXELS and image.shape[1:] == (size.height, size.width, 3):
        _require_batch(model, image)
        return _pixels(image)
    raise refusal(
        f"Expected {INPUT!r} as {PIXELS} [b, {size.height}, {size.width}, 3], or encoded pictures "
        f"as {_FILES} [b] or [b, 1], with b from 1 to {model.max_batch}; got "
        f"{shown(image.datatype)} {_lengths(image.shape)}."
    )


def require_offered(parameters: Container[str]) -> None:
    """Refuse what is not offered among the parameters of a tensor; what is unknown is ignored.

    Raises:
        GatewayError: Says what is not offered.
    """
    for name, said in _UNOFFERED.items():
        if name in parameters:
            raise refusal(said)


def packed(values: Sequence[Any]) -> bytes:
    """Return values of one byte each, which may come as lists of lists, as bytes.

    Raises:
        GatewayError: They are none.
    """
    try:
        while values and isinstance(values[0], list):
            values = list(chain.from_iterable(values))
        return bytes(values)
    except (TypeError, ValueError) as error:
        raise refusal(f"{INPUT!r}: expected whole numbers from 0 to 255: {error}.") from error


def refusal(said: str) -> GatewayError:
    """Return the error of a request that is not as the protocol or the network needs it."""
    return GatewayError(Code.INVALID_ARGUMENT, said)


def _named(model: Model, image: Tensor) -> Tensor:
    """Say of an input that came without a word what it is: one picture, encoded or as pixels."""
    if image.datatype != UNNAMED:
        return image
    data, size = bytes(image.data), model.card.preprocessing
    shape = (1, size.height, size.width, 3)
    if len(data) == math.prod(shape) and not data.startswith(_SIGNATURES):
        return Tensor(INPUT, PIXELS, shape, data)
    return Tensor(INPUT, _FILES, (1,), [data])


def _lengths(shape: tuple[int, ...]) -> str:
    return str([*shape]) if len(shape) <= 8 else f"of {len(shape)} axes"


def _require_batch(model: Model, image: Tensor) -> None:
    if not 1 <= (count := image.shape[0]) <= model.max_batch:
        raise refusal(
            f"The model {model.name!r} takes 1 to {model.max_batch} pictures at once, got {count}. "
            "Send them in several requests."
        )


def _pixels(image: Tensor) -> Images:
    if not isinstance(data := image.data, (bytes, memoryview)):
        data = packed(data)
    if len(data) != (needed := math.prod(image.shape)):
        raise refusal(
            f"{INPUT!r} {_lengths(image.shape)} needs {needed:,} values of one byte, got "
            f"{len(data):,}."
        )
    return np.frombuffer(data, np.uint8).reshape(image.shape)


def _files(image: Tensor, max_bytes: int) -> list[bytes]:
    count = image.shape[0]
    if isinstance(data := image.data, (bytes, memoryview)):
        files = _elements(memoryview(data), count)
    elif all(isinstance(value, bytes) for value in data):
        files = [*data]
    else:
        raise refusal("Encoded pictures are no text: send them as binary data.")
    if len(files) != count:
        raise refusal(
            f"{INPUT!r} {_lengths(image.shape)} needs {count} pictures, got {len(files)}."
        )
    if (largest := max(map(len, files))) > max_bytes:
        raise GatewayError(
            Code.TOO_MANY_BYTES,
            f"A picture may have {max_bytes:,} bytes, this one has {largest:,}. Send the picture "
            "smaller.",
        )
    return files


def _elements(data: memoryview, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor, of which there are to be so many."""
    elements: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data) or len(elements) == count:
            raise refusal(
                f"{INPUT!r} needs {count} pictures, each behind its length, {_LENGTH_BYTES} bytes "
                f"little-endian, and no more; got {len(data):,} bytes that are not so."
            )
        elements.append(bytes(data[start:at]))
    return elements
