"""Call the service over gRPC, and check what every failure must be."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from google.rpc import error_details_pb2, status_pb2

from service import listening
from service.app import create_app
from service.executors.executor import Executor
from service.rpc.edge import Guard
from service.rpc.gpusq.v1 import vision_pb2 as messages
from service.settings import Settings
from tests.conftest import Serve
from tests.service.asking import post, server_timing
from tests.service.keyring import Keyring

REQUESTS: dict[str, Any] = {
    "Classify": (messages.ClassifyRequest, messages.ClassifyResponse),
    "Detect": (messages.DetectRequest, messages.DetectResponse),
    "Segment": (messages.SegmentRequest, messages.SegmentResponse),
    "ListModels": (messages.ListModelsRequest, messages.ListModelsResponse),
}
KINDS = {"masks": messages.Masks, "format": messages.Format}


def method(channel: grpc.Channel, name: str) -> Any:
    """Return one method of Vision, to be called with a message."""
    return channel.unary_unary(
        f"/gpusq.v1.Vision/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=REQUESTS[name][1].FromString,
    )


def raw(channel: grpc.Channel, name: str) -> Any:
    """Return one method of Vision, to be called with any bytes."""
    return channel.unary_unary(f"/gpusq.v1.Vision/{name}")


def message(name: str, **fields: Any) -> Any:
    """Return a request, with choices as REST names them."""
    for field, kind in KINDS.items():
        if isinstance(value := fields.get(field), str):
            fields[field] = kind.Value(f"{field}_{value}".upper())
    return REQUESTS[name][0](**fields)


@dataclass(frozen=True)
class Failure:
    """What a failed call says, and says the same in each of its forms."""

    status: grpc.StatusCode
    code: str
    detail: str
    retry_after: str | None
    request_id: str
    timings_ms: dict[str, float]


def failure(error: grpc.RpcError) -> Failure:
    """Check that a failure is whole, and return it."""
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = unpacked(status, error_details_pb2.ErrorInfo)
    code = trailing["x-error-code"]
    assert (info.reason, info.domain) == (code.upper(), "gpusq")
    request_id = trailing["x-request-id"]
    assert unpacked(status, error_details_pb2.RequestInfo).request_id == request_id
    retry = unpacked(status, error_details_pb2.RetryInfo)
    retry_after = trailing.get("retry-after")
    assert retry_after == (str(retry.retry_delay.seconds) if retry else None)
    return Failure(
        error.code(), code, error.details(), retry_after, request_id, timings_of(trailing)
    )


def timings_of(trailing: dict[str, str]) -> dict[str, float]:
    found = re.findall(r"(\w+);dur=([\d.]+)", trailing.get("server-timing", ""))
    return {stage: float(ms) for stage, ms in found}


def unpacked(status: Any, kind: Any) -> Any:
    """Return the detail of one kind, if there is one."""
    for detail in status.details:
        found = kind()
        if detail.Unpack(found):
            return found
    return None


def failed(call: Any, *arguments: Any, **options: Any) -> Failure:
    """Call what has to fail, and return how it did."""
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return failure(error)
    raise AssertionError("the call succeeded")


@dataclass(frozen=True)
class Said:
    """What either transport says of a request, in words of neither.

    Args:
        answer: Without its times; None where there is none.
        code: Why there is none.
        detail: The same for people.
        retry_after: Seconds.
        stages: Those that were reached, but for `read`, which gRPC always reaches.
    """

    answer: dict[str, Any] | None = None
    code: str | None = None
    detail: str | None = None
    retry_after: str | None = None
    stages: frozenset[str] = frozenset()


class Both:
    """One service over both transports.

    Args:
        rest: Asks over REST.
        channel: Calls over gRPC.
        app: What answers.
    """

    def __init__(self, rest: httpx.Client, channel: grpc.Channel, app: Any) -> None:
        self.rest = rest
        self.channel = channel
        self.app = app
        self._metadata: tuple[tuple[str, str], ...] = ()

    def bring(self, keyring: Keyring, name: str) -> None:
        """Send a key with every request from now on."""
        self.rest.headers.update(keyring.headers(name))
        self._metadata = keyring.metadata(name)

    def ask_rest(self, task: str, image: bytes, **options: Any) -> Said:
        response = post(self.rest, image, task=task, **options)
        body = response.json()
        stages = frozenset(body.pop("timings_ms")) - {"read"}
        assert stages == set(server_timing(response)) - {"read"}
        if response.status_code == 200:
            return Said(without_nothing(body), stages=stages)
        wait = response.headers.get("retry-after")
        return Said(None, body["code"], body["detail"], wait, stages)

    def ask_grpc(self, task: str, image: bytes, **options: Any) -> Said:
        name = task.capitalize()
        request = message(name, image=image, **options)
        try:
            call = method(self.channel, name)
            response = call(request, timeout=30, metadata=self._metadata)
        except grpc.RpcError as error:
            came = failure(error)
            stages = frozenset(came.timings_ms) - {"read"}
            return Said(None, came.code, came.detail, came.retry_after, stages)
        answer = plain(response)
        stages = frozenset(answer.pop("timings_ms")) - {"read"}
        return Said(without_nothing(answer), stages=stages)

    def models(self) -> tuple[Any, Any]:
        """Return what each says of the models."""
        response = method(self.channel, "ListModels")(messages.ListModelsRequest(), timeout=20)
        return (
            without_nothing(self.rest.get("/v1/models").json()),
            without_nothing(plain(response)),
        )


def plain(message: Any) -> Any:
    """Return a message as JSON would have it, every number as it came."""
    if isinstance(message, messages.RunLengths):
        return {"size": [message.height, message.width], "counts": message.counts}
    if isinstance(message, messages.Polygon):
        return list(message.points)
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            found[field.name] = _plain(getattr(message, field.name), field)
    return found


def _plain(value: Any, field: Any) -> Any:
    if field.enum_type is not None:
        name = field.enum_type.values_by_number[value].name
        return name.removeprefix(f"{field.enum_type.name.upper()}_").lower()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if field.is_repeated:
        return [plain(item) if field.message_type else item for item in value]
    return plain(value) if field.message_type else value


def without_nothing(value: Any) -> Any:
    """Leave out what is null or empty, which gRPC cannot tell from what is not there."""
    if isinstance(value, list):
        return [without_nothing(item) for item in value]
    if isinstance(value, dict):
        return {k: without_nothing(v) for k, v in value.items() if v is not None and v != []}
    return value


@contextlib.contextmanager
def both(
    serve: Serve, settings: Settings, executor: Executor, guard: Guard | None = None
) -> Iterator[Both]:
    """Serve over REST and gRPC."""
    free = settings.model_copy(update={"grpc_port": 0})
    with listening.grpc(free) as listener:
        app = create_app(settings, executor, listener)
        if guard is not None:
            app.state.rpc.guard(guard)
        with serve(app) as rest, grpc.insecure_channel(app.state.rpc.address) as channel:
            yield Both(rest, channel, app)
