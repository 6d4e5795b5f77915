"""What goes over the wire to a Triton server: pictures, tensors, and failures in our words."""

from __future__ import annotations

from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from service.errors import Code, GatewayError, ModelError, ServiceError, VersionGoneError
from service.executors.executor import Images, Model, Outputs

RETRY_AFTER_S: Final = 1
# The largest answer here is a class map or masks of one batch.
_MAX_MESSAGE_BYTES: Final = 256 << 20
CHANNEL: Final = (
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # gRPC would otherwise wait for up to two minutes before it tries a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # No proxy variable shall carry pictures elsewhere.
    ("grpc.enable_http_proxy", 0),
)
_DTYPES: Final = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
}
# Triton says several things with UNAVAILABLE; only the text tells them apart.
_QUEUE_FULL: Final = "Exceeds maximum queue size"
_QUEUE_TIMEOUT: Final = "Request timeout expired"
# Of a model whose process was killed; Triton itself goes on to call it ready.
_WORKER_DEAD: Final = "is not healthy"
_RESTRICTED: Final = "restricted"
_NO_REGION: Final = "shared memory"
_NO_VERSION: Final = ("unknown model", "not at ready state", "is not found")


def request(model: str, version: int, images: Images, region: str | None = None) -> Any:
    """Return the message that asks for every output of one batch.

    Args:
        model: Its name.
        version: Its version.
        images: The batch.
        region: The shared memory that holds it; None to send it along.
    """
    image = service_pb2.ModelInferRequest.InferInputTensor(
        name="image", datatype="UINT8", shape=images.shape
    )
    message = service_pb2.ModelInferRequest(
        model_name=model, model_version=str(version), inputs=[image]
    )
    if region is None:
        message.raw_input_contents.append(images.tobytes())
    else:
        where = message.inputs[0].parameters
        where["shared_memory_region"].string_param = region
        where["shared_memory_byte_size"].int64_param = images.nbytes
    return message


def outputs(response: Any) -> Outputs:
    """Return the tensors of an answer; they are read-only.

    Raises:
        ModelError: A tensor has not the bytes that its shape needs.
    """
    if len(response.outputs) != len(response.raw_output_contents):
        raise ModelError(
            f"Triton announced {len(response.outputs)} outputs and sent "
            f"{len(response.raw_output_contents)} as raw bytes"
        )
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {tensor.name: _array(tensor, raw) for tensor, raw in pairs}


def _array(tensor: Any, raw: bytes) -> Any:
    if (dtype := _DTYPES.get(tensor.datatype)) is None:
        raise ModelError(f"Triton sent {tensor.name!r} as {tensor.datatype}, which no graph has")
    shape = tuple(tensor.shape)
    # A Python backend with NumPy 2 under Triton 2.51 answers OK with no bytes at all.
    if (needed := int(np.prod(shape)) * dtype.itemsize) != len(raw):
        raise ModelError(
            f"Triton sent {len(raw)} bytes for {tensor.name!r} {list(shape)}, which needs {needed}"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def failure(url: str, model: Model, error: grpc.aio.AioRpcError) -> ServiceError:
    """Say what a failed inference means for the request."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or _QUEUE_TIMEOUT in text:
        return late(model.name)
    if code is grpc.StatusCode.NOT_FOUND or any(words in text for words in _NO_VERSION):
        return VersionGoneError(f"Triton no longer serves version {model.version}: {text}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or _QUEUE_FULL in text:
        return GatewayError(
            Code.OVERLOADED,
            f"Triton's queue of {model.name!r} is full. Try again in {RETRY_AFTER_S} s.",
            retry_after_s=RETRY_AFTER_S,
        )
    if code is grpc.StatusCode.UNAVAILABLE and _RESTRICTED not in text:
        return unreachable(url)
    if _WORKER_DEAD in text:
        return GatewayError(
            Code.MODEL_UNAVAILABLE,
            f"The process that runs {model.name!r} at Triton has ended: {text} Try again in "
            f"{RETRY_AFTER_S} s; whoever runs the service loads the model again.",
            retry_after_s=RETRY_AFTER_S,
        )
    refused = code is grpc.StatusCode.INVALID_ARGUMENT
    return ModelError(
        f"Triton {'refused the input' if refused else f'answered {code.name}'}: {text}"
    )


def lacks_region(error: grpc.aio.AioRpcError) -> bool:
    """Whether a failed call says that Triton does not know the shared memory it was told of."""
    return _NO_REGION in (error.details() or "").lower()


def is_away(error: grpc.aio.AioRpcError) -> bool:
    """Whether a failed call says that no server answers, rather than that this one refuses."""
    away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return error.code() in away and _RESTRICTED not in (error.details() or "")


def late(model: str) -> GatewayError:
    """Return the error of a call whose time ran out at Triton."""
    return GatewayError(
        Code.DEADLINE_EXCEEDED,
        f"Triton did not answer for {model!r} in time. Try again later.",
        retry_after_s=RETRY_AFTER_S,
    )


def unreachable(url: str) -> GatewayError:
    """Return the error of a server that nobody answers at."""
    return GatewayError(
        Code.EXECUTOR_UNAVAILABLE,
        f"The Triton server at {url} cannot be reached. Try again in {RETRY_AFTER_S} s; whoever "
        "runs the service looks whether Triton runs and GPUSQ_TRITON_URL names it.",
        retry_after_s=RETRY_AFTER_S,
    )
