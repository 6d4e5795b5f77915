"""What a Triton is told of shared memory, against a gRPC server that registers it."""

import asyncio
import contextlib

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.executors.triton_memory import Regions

IMAGES = np.zeros((1, 8, 8, 3), np.uint8)


class Registry(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Knows regions by name; each may be told once, as with Triton."""

    def __init__(self):
        self.known = []
        self.slow_after = 100

    async def SystemSharedMemoryRegister(self, request, context):  # noqa: N802 - the protocol has it
        if len(self.known) >= self.slow_after:
            await asyncio.sleep(60)
        if request.name in self.known:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "It is registered.")
        self.known.append(request.name)
        return service_pb2.SystemSharedMemoryRegisterResponse()


@contextlib.asynccontextmanager
async def serving(registry):
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    finally:
        await server.stop(0)


def is_lent(regions):
    with regions.lend(IMAGES) as lent:
        return lent is not None


def test_what_was_told_to_the_middle_is_told_to_the_end_the_next_time():
    async def run():
        registry = Registry()
        async with serving(registry) as stub:
            with contextlib.closing(Regions(3, IMAGES.nbytes)) as regions:
                registry.slow_after = 1
                await regions.announce(stub, 0.5)
                assert not is_lent(regions)
                registry.slow_after = 100
                await regions.announce(stub, 20)
                assert is_lent(regions)
        assert len(registry.known) == 3

    asyncio.run(run())


def test_a_triton_that_goes_away_meanwhile_has_refused_nothing():
    async def run():
        with contextlib.closing(Regions(1, IMAGES.nbytes)) as regions:
            async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
                await regions.announce(service_pb2_grpc.GRPCInferenceServiceStub(channel), 20)
            async with serving(Registry()) as stub:
                await regions.announce(stub, 20)
                assert is_lent(regions)

    asyncio.run(run())
