"""The executor against a gRPC server that speaks Triton's protocol and can be put in any state."""

import asyncio
import contextlib
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from service.answer import Source
from service.catalogue import TASKS
from service.errors import Code, GatewayError, ModelError, VersionGoneError
from service.executors.triton import TritonExecutor
from service.gateway import Gateway
from service.settings import Settings
from service.tasks import classify as classify_task
from tests import bundles
from tests.contract.pictures import encoded, photo
from tests.service.scenario import until

IMAGES = np.zeros((2, bundles.SIZE_PX, bundles.SIZE_PX, 3), np.uint8)


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One model, `colours`, and what a test makes of it."""

    def __init__(self):
        self.version = 1
        self.card = bundles.colour_card().to_json()
        self.error = None
        self.delay_s = 0.0
        self.short = False
        self.cancelled = 0
        self.least_left_s = 60.0

    async def RepositoryIndex(self, request, context):  # noqa: N802 - the protocol has it
        entry = service_pb2.RepositoryIndexResponse.ModelIndex(
            name="colours", version=str(self.version), state="READY"
        )
        return service_pb2.RepositoryIndexResponse(models=[entry])

    async def ModelConfig(self, request, context):  # noqa: N802 - the protocol has it
        config = model_config_pb2.ModelConfig(name="colours", max_batch_size=8)
        config.input.add(name="image", data_type="TYPE_UINT8", dims=IMAGES.shape[1:])
        config.output.add(name="scores", data_type="TYPE_FP32", dims=[4])
        if self.card:
            config.parameters["gpusq_card"].string_value = self.card
        return service_pb2.ModelConfigResponse(config=config)

    async def ModelInfer(self, request, context):  # noqa: N802 - the protocol has it
        if request.model_version != str(self.version):
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"Request for unknown model: 'colours' version {request.model_version} is not at "
                "ready state",
            )
        if self.error:
            await context.abort(*self.error)
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.least_left_s = min(self.least_left_s, context.time_remaining())
        count = request.inputs[0].shape[0]
        assert len(request.raw_input_contents[0]) == count * IMAGES[0].nbytes
        scores = np.tile(np.array([0.7, 0.1, 0.1, 0.1], np.float32), (count, 1))
        output = service_pb2.ModelInferResponse.InferOutputTensor(
            name="scores", datatype="FP32", shape=scores.shape
        )
        raw = b"" if self.short else scores.tobytes()
        return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[raw])


@contextlib.asynccontextmanager
async def serving(servicer, port=0, interceptors=()):
    server = grpc.aio.server(interceptors=interceptors)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def watching(port, timeout_s=1.0, region_bytes=0):
    executor = TritonExecutor(
        f"127.0.0.1:{port}",
        concurrency=4,
        timeout_s=timeout_s,
        check_s=0.1,
        region_bytes=region_bytes,
    )
    gateway = Gateway(executor, Settings(deadline_s=2, default_model="colours"))
    task = asyncio.create_task(gateway.watch())
    try:
        yield executor, gateway
    finally:
        task.cancel()
        await asyncio.wait([task])
        gateway.close()


async def classify(gateway):
    async def source():
        return encoded(photo(32, 32))

    task = TASKS["classify"]
    options = classify_task.Options(1)
    return await gateway.answer(task, None, Source(source, 10_000), options)


def test_a_model_is_found_with_its_card_and_answers():
    async def run():
        async with serving(Server()) as port, watching(port) as (executor, gateway):
            await until(lambda: gateway.models)
            assert executor.models["colours"].card == bundles.colour_card()
            assert (await executor.infer("colours", IMAGES))["scores"].shape == (2, 4)
            assert (await classify(gateway)).model == "colours"

    asyncio.run(run())


def test_a_model_without_a_card_is_unavailable_with_one_sentence():
    async def run():
        server = Server()
        server.card = ""
        async with serving(server) as port, watching(port) as (_executor, gateway):
            await until(lambda: gateway.unavailable)
            assert "gpusq_card" in gateway.unavailable["colours"]
            assert not gateway.models

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        ("UNAVAILABLE", "Exceeds maximum queue size", Code.OVERLOADED),
        ("UNAVAILABLE", "Request timeout expired", Code.DEADLINE_EXCEEDED),
        ("UNAVAILABLE", "Socket closed", Code.EXECUTOR_UNAVAILABLE),
        ("INVALID_ARGUMENT", "unexpected shape", None),
        ("INTERNAL", "Stub process 'x' is not healthy.", Code.MODEL_UNAVAILABLE),
        ("INTERNAL", "a defect of the network", None),
    ],
)
def test_each_failure_of_triton_has_its_code(status, text, code):
    async def run():
        server = Server()
        async with serving(server) as port, watching(port) as (executor, gateway):
            await until(lambda: gateway.models)
            server.error = (grpc.StatusCode[status], text)
            with pytest.raises(GatewayError if code else ModelError) as caught:
                await executor.infer("colours", IMAGES)
            if code:
                assert caught.value.code is code
                assert caught.value.retry_after_s
            else:
                assert text in str(caught.value)
                # A request that fails makes the executor look at once.
                await until(lambda: text in gateway.unavailable.get("colours", ""))
                server.error = None
                await until(lambda: gateway.models)

    asyncio.run(run())


def test_a_tensor_without_its_bytes_is_a_failure_and_no_answer():
    async def run():
        server = Server()
        async with serving(server) as port, watching(port) as (executor, gateway):
            await until(lambda: gateway.models)
            server.short = True
            with pytest.raises(ModelError, match=r"0 bytes .* needs 32"):
                await executor.infer("colours", IMAGES)

    asyncio.run(run())


def test_a_request_that_is_cancelled_is_cancelled_at_triton():
    async def run():
        server = Server()
        async with serving(server) as port, watching(port, 5) as (executor, gateway):
            await until(lambda: gateway.models)
            server.delay_s = 4
            asked = asyncio.create_task(executor.infer("colours", IMAGES))
            await asyncio.sleep(0.2)
            asked.cancel()
            await until(lambda: server.cancelled, 2)

    asyncio.run(run())


def test_a_triton_that_takes_no_shared_memory_gets_its_inputs_over_grpc(caplog):
    async def run():
        async with serving(Server()) as port, watching(port, region_bytes=10**6) as (_, gateway):
            await until(lambda: gateway.models)
            assert (await classify(gateway)).model == "colours"

    asyncio.run(run())
    assert "Triton takes no shared memory, so gRPC is used" in caplog.text


def test_triton_is_told_how_long_the_client_waits():
    async def run():
        server = Server()
        async with serving(server) as port, watching(port, 60) as (executor, gateway):
            await until(lambda: gateway.models)
            await executor.infer("colours", IMAGES, 1, 0.7)
            # Clocks of the two ends are read to a millisecond.
            assert 0 < server.least_left_s < 0.8

    asyncio.run(run())


def test_a_slow_triton_is_answered_for_within_the_time_of_a_call():
    async def run():
        server = Server()
        async with serving(server) as port, watching(port, 0.3) as (executor, gateway):
            await until(lambda: gateway.models)
            server.delay_s = 5
            began_s = time.monotonic()
            with pytest.raises(GatewayError) as caught:
                await executor.infer("colours", IMAGES)
            assert caught.value.code is Code.DEADLINE_EXCEEDED
            assert time.monotonic() - began_s < 2

    asyncio.run(run())


def test_a_gateway_that_starts_first_is_ready_when_triton_is_and_says_when_it_goes():
    async def run():
        async with serving(Server()) as port:
            pass
        async with watching(port) as (_executor, gateway):
            with pytest.raises(GatewayError) as caught:
                await classify(gateway)
            assert caught.value.code is Code.EXECUTOR_UNAVAILABLE
            for _ in range(2):
                async with serving(Server(), port):
                    await until(lambda: gateway.models)
                    assert (await classify(gateway)).model == "colours"
                    assert b'gpusq_model_ready{executor="triton",model="colours"} 1.0' in (
                        gateway.metrics.render()
                    )
                await until(lambda: not gateway.models)
                assert b'model="colours"} 0.0' in gateway.metrics.render()

    asyncio.run(run())


def test_a_request_on_a_version_that_was_replaced_is_answered_by_the_new_one():
    async def run():
        server = Server()
        async with serving(server) as port, watching(port) as (executor, gateway):
            await until(lambda: gateway.models)
            server.version = 2
            answer = await classify(gateway)
            assert answer.version == 2
            with pytest.raises(VersionGoneError):
                await executor.infer("colours", IMAGES, 1)

    asyncio.run(run())
