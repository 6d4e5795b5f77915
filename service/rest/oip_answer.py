"""Write an answer of the Open Inference Protocol: JSON, and binary tensor data behind it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import Response

from service.answer import Inferred
from service.ledger import server_timing
from service.oip.tensors import DATATYPES
from service.rest import inference
from service.rest.oip_body import HEADER_LENGTH
from service.rest.oip_messages import InferRequest

BINARY: Final = "application/octet-stream"
_JSON: Final = "application/json"
# More numbers are written beside the event loop.
_MANY_VALUES: Final = 50_000


async def respond(inferred: Inferred, asked: InferRequest) -> Response:
    """Return the outputs, each as it was asked for.

    Args:
        inferred: What the network gave.
        asked: The request.
    """
    if sum(values.size for values in inferred.outputs.values()) > _MANY_VALUES:
        return await asyncio.to_thread(_written, inferred, asked)
    return _written(inferred, asked)


def _written(inferred: Inferred, asked: InferRequest) -> Response:
    binary = {name: _is_binary(name, asked) for name in inferred.outputs}
    said = {
        "model_name": inferred.model,
        "model_version": str(inferred.version),
        **({} if asked.id is None else {"id": asked.id}),
        "outputs": [
            _output(name, values, binary=binary[name]) for name, values in inferred.outputs.items()
        ],
    }
    json = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {inference.HEADER: server_timing(inferred.timings_ms)}
    if not any(binary.values()):
        return Response(json, headers=headers, media_type=_JSON)
    tail = [values.tobytes() for name, values in inferred.outputs.items() if binary[name]]
    headers[HEADER_LENGTH] = str(len(json))
    return Response(b"".join((json, *tail)), headers=headers, media_type=BINARY)


def _is_binary(name: str, asked: InferRequest) -> bool:
    for output in asked.outputs:
        if output.name == name and output.parameters.binary_data is not None:
            return output.parameters.binary_data
    return asked.parameters.binary_data_output


def _output(name: str, values: npt.NDArray[Any], *, binary: bool) -> dict[str, Any]:
    said = {"name": name, "datatype": DATATYPES[values.dtype.name], "shape": [*values.shape]}
    if binary:
        return {**said, "parameters": {"binary_data_size": values.nbytes}}
    return {**said, "data": np.ascontiguousarray(values).reshape(-1)}
