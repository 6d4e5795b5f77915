"""Take a request of the Open Inference Protocol apart: JSON, and binary tensor data behind it."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any, Final

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from service.errors import Code, GatewayError, shown
from service.oip import protocol
from service.oip.tensors import INPUT, PIXELS, UNNAMED, Tensor, packed, refusal, require_offered
from service.rest.arriving import Arriving
from service.rest.oip_messages import InferInput, InferParameters, InferRequest

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
# JSON of more is slow whoever parses it; a picture of 224 x 224 takes half of it at most.
MAX_JSON_BYTES: Final = 1_200_000
# Larger ones are taken apart beside the event loop.
_LARGE_BYTES: Final = 65_536
_AS_BINARY: Final = (
    f"Send tensors as binary data: behind the JSON, whose length {HEADER_LENGTH} has."
)
# zlib finds out by itself which of the two it is.
_ANY_FORMAT: Final = zlib.MAX_WBITS | 32
_PACKED: Final = ("gzip", "deflate")
_MAX_INDEX_BYTES: Final = 4096
_MAX_DIGITS: Final = 18
# Of the place of a fault that is shown.
_MAX_PATH: Final = 80


class TensorBody(Arriving):
    """The body of one request.

    Args:
        request: The request.
        max_bytes: Most bytes accepted, unpacked too.
    """

    def __init__(self, request: Request, max_bytes: int) -> None:
        super().__init__(request, max_bytes, "Send fewer pictures at once.")
        self._packed = request.headers.get("content-encoding", "").strip().lower()
        self._json_length = request.headers.get(HEADER_LENGTH.lower())
        self.asked = InferRequest(inputs=[])

    @property
    def most_bytes(self) -> int:
        """How many bytes it has at most; unpacked, it may be as large as any."""
        return self._max_bytes if self._packed in _PACKED else super().most_bytes

    async def request(self) -> protocol.Request:
        """Return what is asked; :attr:`asked` says more of it.

        Raises:
            GatewayError: Too many bytes, or not as the protocol has it.
        """
        if self._packed not in ("", "identity", *_PACKED):
            raise GatewayError(
                Code.UNSUPPORTED_MEDIA,
                f"Expected a body as it is, or packed by gzip or deflate, got "
                f"{shown(self._packed)}.",
            )
        data = await self.whole()
        if self._packed in _PACKED:
            data = await asyncio.to_thread(self._unpacked, data)
        json, binary = self._split(data)
        if len(json) > _LARGE_BYTES:
            return await asyncio.to_thread(self._parse, json, binary)
        return self._parse(json, binary)

    def _unpacked(self, data: bytes) -> bytes:
        unpacker = zlib.decompressobj(_ANY_FORMAT)
        try:
            whole = unpacker.decompress(data, self._max_bytes + 1)
        except zlib.error as error:
            raise refusal(f"The body is not packed by {self._packed}: {error}.") from error
        if len(whole) > self._max_bytes:
            raise self.too_many("more, unpacked")
        if not unpacker.eof or unpacker.unused_data:
            raise refusal(f"The body does not end where what {self._packed} packed ends.")
        return whole

    def _split(self, data: bytes) -> tuple[memoryview, memoryview]:
        """Return the JSON and what is behind it."""
        whole, length = memoryview(data), len(data)
        if (declared := self._json_length) is not None:
            if not (declared.isascii() and declared.isdecimal()) or len(declared) > _MAX_DIGITS:
                raise refusal(f"{HEADER_LENGTH}: expected a whole number, got {shown(declared)}.")
            length = int(declared)
        if length > len(data):
            raise refusal(f"{HEADER_LENGTH} is {length:,}, the body has {len(data):,} bytes.")
        if length > MAX_JSON_BYTES:
            raise GatewayError(
                Code.TOO_MANY_BYTES,
                f"The JSON of a request may have {MAX_JSON_BYTES:,} bytes, this one has "
                f"{length:,}. {_AS_BINARY}",
            )
        return whole[:length], whole[length:]

    def _parse(self, json: memoryview, binary: memoryview) -> protocol.Request:
        if self._json_length is not None and not json:
            self.asked = InferRequest(
                inputs=[], parameters=InferParameters(binary_data_output=True)
            )
            return protocol.Request([Tensor(INPUT, UNNAMED, (), binary)])
        self.asked = asked = _asked(json)
        for tensor in asked.inputs:
            require_offered(tensor.parameters.model_fields_set)
        for output in asked.outputs:
            require_offered(output.parameters.model_fields_set)
        return protocol.Request(
            _tensors(asked.inputs, binary),
            [output.name for output in asked.outputs],
            asked.parameters.timeout,
        )


async def only_ready(request: Request) -> bool:
    """Whether a request for the list of models wants only those that can be asked.

    Raises:
        GatewayError: It is not as the protocol has it.
    """
    if not (data := await Arriving(request, _MAX_INDEX_BYTES, "Send less.").whole()):
        return False
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise refusal(f"The request is no JSON: {error}.") from error
    if not isinstance(said, dict) or not isinstance(ready := said.get("ready", False), bool):
        raise refusal('Expected a JSON object, with "ready" as true or false if at all.')
    return ready


def _asked(json: memoryview) -> InferRequest:
    try:
        return InferRequest.model_validate(orjson.loads(json))
    except orjson.JSONDecodeError as error:
        raise refusal(f"The request is no JSON: {error}. {_AS_BINARY}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "The request"
        # What pydantic says of this names a class.
        said = "Expected an object" if fault["type"] == "model_type" else fault["msg"]
        raise refusal(f"{where[:_MAX_PATH]}: {said}.") from error


def _tensors(inputs: list[InferInput], binary: memoryview) -> list[Tensor]:
    """Return the inputs of a request, each with its part of the binary data."""
    tensors, at = [], 0
    for tensor in inputs:
        size = tensor.parameters.binary_data_size
        if size is None:
            data: memoryview | bytes | list[Any] = _values(tensor)
        elif tensor.data is not None:
            raise refusal(f"{shown(tensor.name)} has data and binary_data_size. Send one of them.")
        else:
            data = binary[at : at + size]
            at += size
        tensors.append(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    if at != len(binary):
        raise refusal(
            f"The inputs announce {at:,} bytes, {len(binary):,} are behind the JSON. "
            f"{HEADER_LENGTH} is the length of the JSON, binary_data_size that of each input."
        )
    return tensors


def _values(tensor: InferInput) -> bytes | list[Any]:
    if not isinstance(tensor.data, list):
        raise refusal(f"{shown(tensor.name)} has neither a list as data nor binary_data_size.")
    # Here, where many do not hold up the event loop.
    return packed(tensor.data) if tensor.datatype == PIXELS else tensor.data
