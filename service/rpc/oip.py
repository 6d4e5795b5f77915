"""inference.GRPCInferenceService, the Open Inference Protocol over gRPC, by Triton's own messages.

Of Triton's methods those are served that the protocol asks for, and what its clients read of a
model before they send anything. gRPC says of all others that they are unimplemented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from service.answer import Source
from service.errors import Code, GatewayError, shown
from service.oip import describe
from service.oip.protocol import OpenInference, Request
from service.oip.tensors import DATATYPES, Tensor, refusal, require_offered
from service.rpc import call

# In which field of a message values of each type stand, where they are not sent as bytes.
_CONTENTS: Final = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


class GrpcInference:
    """Serves the protocol.

    Args:
        protocol: What answers.
    """

    name: Final = "inference.GRPCInferenceService"
    asks: Final[Mapping[str, str]] = {"ModelInfer": ""}

    def __init__(self, protocol: OpenInference) -> None:
        self._protocol = protocol

    def install(self, server: grpc.aio.Server) -> None:
        """Add its methods to a server."""
        methods = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "ModelInfer": self.model_infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                getattr(service_pb2, f"{name}Request").FromString,
                lambda response: response.SerializeToString(),
            )
            for name, method in methods.items()
        }
        handler = grpc.method_handlers_generic_handler(self.name, handlers)
        server.add_generic_rpc_handlers((handler,))

    async def server_live(self, _request: Any, _context: Any) -> Any:
        """Answer as long as the event loop turns."""
        return service_pb2.ServerLiveResponse(live=True)

    async def server_ready(self, _request: Any, _context: Any) -> Any:
        """Say whether the default model can be asked."""
        return service_pb2.ServerReadyResponse(ready=self._protocol.ready)

    async def model_ready(self, request: Any, _context: Any) -> Any:
        """Say whether a model can be asked; one that is not there cannot, as Triton has it."""
        try:
            ready = self._protocol.is_ready(request.name, request.version)
        except GatewayError as error:
            if error.code is not Code.UNKNOWN_MODEL:
                raise
            ready = False
        return service_pb2.ModelReadyResponse(ready=ready)

    async def server_metadata(self, _request: Any, _context: Any) -> Any:
        """Say what the server is."""
        return service_pb2.ServerMetadataResponse(**describe.server())

    async def model_metadata(self, request: Any, _context: Any) -> Any:
        """Say what a model takes and gives."""
        said = self._protocol.metadata(request.name, request.version)
        return json_format.ParseDict(said, service_pb2.ModelMetadataResponse())

    async def model_config(self, request: Any, _context: Any) -> Any:
        """Say how a model is configured, with its card."""
        said = self._protocol.config(request.name, request.version)
        config = json_format.ParseDict(said, model_config_pb2.ModelConfig())
        return service_pb2.ModelConfigResponse(config=config)

    async def model_statistics(self, request: Any, _context: Any) -> Any:
        """Say how often a model, or each, was asked, and how long it took."""
        said = {"model_stats": self._protocol.statistics(request.name, request.version)}
        return json_format.ParseDict(said, service_pb2.ModelStatisticsResponse())

    async def repository_index(self, request: Any, _context: Any) -> Any:
        """List the models."""
        said = {"models": self._protocol.index(ready=request.ready)}
        return json_format.ParseDict(said, service_pb2.RepositoryIndexResponse())

    async def model_infer(self, request: Any, _context: Any) -> Any:
        """Run a network on a batch."""

        async def read() -> Request:
            return _request(request)

        inferred = await self._protocol.infer(
            request.model_name,
            request.model_version,
            Source(read, request.ByteSize()),
            call.current().ledger,
        )
        response = service_pb2.ModelInferResponse(
            model_name=inferred.model, model_version=str(inferred.version), id=request.id
        )
        for name, values in inferred.outputs.items():
            response.outputs.add(
                name=name, datatype=DATATYPES[values.dtype.name], shape=values.shape
            )
            response.raw_output_contents.append(values.tobytes())
        return response


def _request(message: Any) -> Request:
    for tensor in (*message.inputs, *message.outputs):
        require_offered(tensor.parameters)
    timeout = message.parameters.get("timeout")
    return Request(
        _tensors(message),
        [output.name for output in message.outputs],
        None if timeout is None else max(0, timeout.int64_param),
    )


def _tensors(message: Any) -> list[Tensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise refusal(
            f"Expected raw_input_contents for each of {len(message.inputs)} inputs, got {len(raw)}."
        )
    data = raw or [_values(tensor) for tensor in message.inputs]
    return [
        Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), values)
        for tensor, values in zip(message.inputs, data, strict=True)
    ]


def _values(tensor: Any) -> list[Any]:
    if (field := _CONTENTS.get(tensor.datatype)) is None:
        raise refusal(
            f"Expected {shown(tensor.name)} as {' or '.join(_CONTENTS)}, got "
            f"{shown(tensor.datatype)}."
        )
    return list(getattr(tensor.contents, field))
