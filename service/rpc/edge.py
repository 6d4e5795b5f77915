"""The outermost layer: a request id, one log line, the checks before a message, no bare fault.

A message is read here and not by gRPC, so that a call can be refused before it comes, that a slow
one ends, and that one which cannot be parsed gets a sentence.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from service.catalogue import RETRY_AFTER_S
from service.errors import Code, GatewayError, GoneError
from service.gateway import Gateway
from service.ledger import Ledger
from service.observe import access
from service.observe.observer import Observer, asked
from service.rpc import call as calls
from service.rpc import failures
from service.rpc.call import Call
from service.settings import Settings
from service.waiting import within

logger = logging.getLogger(__name__)

# Looks at a message, and raises GatewayError to refuse it; None is that of a stream.
MessageCheck = Callable[[Any], None]
# Looks at a call before its message is read, and raises GatewayError to refuse it; returns what
# only the message can tell.
Guard = Callable[[Call], Awaitable[MessageCheck | None]]

# Probes come every few seconds and say nothing.
_QUIET: Final = ("/grpc.health.", "/grpc.reflection.")
# Of calls whose message is still on its way, so that the gateway says who is one too many.
_ARRIVING: Final = 8
# Streams last as long as clients like, and the server runs only so many calls.
_STREAMS: Final = 64


class Edge(grpc.aio.ServerInterceptor):  # type: ignore[misc] # has no types
    """Wraps every method of every service.

    Args:
        gateway: Hears of what is refused here.
        settings: How long a message may take.
        asks: The task of each method that asks a network, by its full name.
        guards: Asked in turn before a message is read.
        observer: Sees every call.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        asks: Mapping[str, str],
        guards: list[Guard],
        observer: Observer,
    ) -> None:
        self._gateway = gateway
        self._timeout_s = settings.read_timeout_s
        self._asks = asks
        self._guards = guards
        self._observer = observer
        self._asking = 0
        self._streams = 0

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler of a method, wrapped."""
        handler, method = await continuation(details), details.method
        if handler is None:
            with self._observer.exchange({}, traced=False) as exchange:
                # Whatever a client thinks of stands there.
                name = urllib.parse.quote(method)
                exchange.ended = access.of_rpc(name, "UNIMPLEMENTED", None)
            return None
        if handler.response_streaming:
            return self._streaming(handler, method)

        async def respond(_messages: object, context: Any) -> Any:
            async with self._entered(method, context) as call:
                return await self._respond(handler, call, context)

        return grpc.stream_unary_rpc_method_handler(respond, None, handler.response_serializer)

    def _streaming(self, handler: Any, method: str) -> Any:
        async def respond(messages: Any, context: Any) -> AsyncIterator[Any]:
            async with self._entered(method, context) as call:
                with self._stream():
                    for check in await self._checked(call):
                        check(None)
                    inner = handler.stream_stream or handler.unary_stream
                    async for response in inner(messages, context):
                        yield response

        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler
        else:
            make = grpc.unary_stream_rpc_method_handler
        return make(respond, handler.request_deserializer, handler.response_serializer)

    async def _respond(self, handler: Any, call: Call, context: Any) -> Any:
        with self._place(call.method):
            checks = await self._checked(call)
            with self._counted(call.method):
                request = _parsed(handler, await self._message(call, context))
                for check in checks:
                    check(request)
            return await handler.unary_unary(request, context)

    async def _checked(self, call: Call) -> list[MessageCheck]:
        with self._counted(call.method):
            left = [await guard(call) for guard in self._guards]
        return [check for check in left if check is not None]

    async def _message(self, call: Call, context: Any) -> bytes:
        with call.ledger.stage("read"):
            try:
                message = await within(self._timeout_s, context.read())
            except asyncio.TimeoutError as error:
                raise GatewayError(
                    Code.READ_TIMEOUT, f"The message did not arrive within {self._timeout_s:g} s."
                ) from error
        if message is grpc.aio.EOF:
            # So does one that is too large for gRPC, which has said so by then.
            raise GatewayError(Code.BAD_REQUEST, "The call ended without a message. Send one.")
        raw: bytes = message
        return raw

    @contextmanager
    def _place(self, method: str) -> Iterator[None]:
        """Hold one of the places for calls that ask a network, so that messages stay few."""
        if method not in self._asks:
            yield
            return
        if self._asking >= self._gateway.capacity + _ARRIVING:
            self._gateway.metrics.shed("requests")
            with self._counted(method):
                raise GatewayError(
                    Code.OVERLOADED,
                    f"The service is busy: {self._asking} requests are being answered. Try again "
                    f"in {RETRY_AFTER_S} s.",
                    retry_after_s=RETRY_AFTER_S,
                )
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """Hold one of the places for streams."""
        if self._streams >= _STREAMS:
            raise GatewayError(
                Code.OVERLOADED,
                f"{self._streams} streams are open, as many as may be. End one, or try again in "
                f"{RETRY_AFTER_S} s.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        """Count what is refused inside the block, before the gateway hears of it."""
        try:
            yield
        except GatewayError as error:
            if method in self._asks:
                self._gateway.refused(self._asks[method], None, error.code.value)
            raise

    @asynccontextmanager
    async def _entered(self, method: str, context: Any) -> AsyncIterator[Call]:
        """Do what every call needs around it: an id, a trace, a line in the log, a status."""
        metadata = tuple(context.invocation_metadata() or ())
        quiet = method.startswith(_QUIET)
        with self._observer.exchange(asked(metadata), traced=not quiet) as exchange:
            exchange.ledger = Ledger(context.time_remaining())
            call = Call(
                method, context.peer(), dict(metadata), exchange.ledger, exchange.request_id
            )
            calls.enter(call)
            status = [grpc.StatusCode.OK]
            try:
                async with self._ended(call, context, status):
                    yield call
            finally:
                exchange.ended = access.of_rpc(method, status[0].name, call.peer, quiet=quiet)

    @asynccontextmanager
    async def _ended(self, call: Call, context: Any, ended: list[Any]) -> AsyncIterator[None]:
        """End a call with a status, whatever happens inside, and say with which."""
        try:
            context.set_trailing_metadata((("x-request-id", call.request_id),))
            yield
        except grpc.aio.AbortError:
            ended[0] = context.code()
            raise
        except GatewayError as error:
            ended[0] = failures.STATUS[error.code]
            await self._abort(call, context, error)
        except GoneError:
            ended[0] = grpc.StatusCode.CANCELLED
            await context.abort(ended[0])
        except (asyncio.CancelledError, GeneratorExit):
            late = call.ledger.left_s() <= 0
            ended[0] = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception:  # the edge: nothing else may turn a fault into an answer
            logger.exception("request %s failed", call.request_id)
            ended[0] = grpc.StatusCode.INTERNAL
            fault = GatewayError(Code.INTERNAL, "The log has the reason, by this request id.")
            await self._abort(call, context, fault)

    async def _abort(self, call: Call, context: Any, error: GatewayError) -> None:
        timings_ms = call.ledger.timings_ms() if call.method in self._asks else None
        trailing = (
            ("x-request-id", call.request_id),
            *failures.metadata(error, timings_ms),
            (failures.DETAILS, failures.details(error, call.request_id)),
        )
        await context.abort(failures.STATUS[error.code], failures.said(error), trailing)


def _parsed(handler: Any, message: bytes) -> Any:
    try:
        return handler.request_deserializer(message)
    except DecodeError as error:
        raise GatewayError(
            Code.BAD_REQUEST,
            f"The message cannot be parsed: {error}. Send one of the type that the method takes.",
        ) from error
