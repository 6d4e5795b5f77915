"""What a Triton is told of shared memory, against a gRPC server that registers it."""

import asyncio

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


def test_what_was_told_to_the_middle_is_told_to_the_end_the_next_time():
    async def run():
        registry, regions = Registry(), Regions(3, IMAGES.nbytes)
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(registry, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                registry.slow_after = 1
                await regions.announce(stub, 0.5)
                with regions.lend(IMAGES) as lent:
                    assert lent is None
                registry.slow_after = 100
                await regions.announce(stub, 20)
                with regions.lend(IMAGES) as lent:
                    assert lent is not None
                assert len(registry.known) == 3
        finally:
            regions.close()
            await server.stop(0)

    asyncio.run(run())
