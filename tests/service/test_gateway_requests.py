"""What one request may bring: several pictures, a batch of its own, a deadline."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.answer import Answer, Source
from service.errors import Code, GatewayError
from service.gateway import Gateway
from service.ledger import Ledger
from service.tasks import classify
from tests.contract.pictures import encoded
from tests.service.fakes import FakeExecutor
from tests.service.scenario import classified, code_of, run, sends, until


def brings(what: Any) -> Source[Any]:
    async def read() -> Any:
        return what

    return Source(read, 1000)


def test_several_pictures_are_answered_in_their_order_each_for_itself(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        source = brings([red_jpeg, b"no picture", red_jpeg])
        first, second, third = await gateway.answer_several(
            classify.TASK, None, source, classify.Options(1)
        )
        assert isinstance(first, Answer)
        assert isinstance(third, Answer)
        assert first.result == third.result
        assert isinstance(second, GatewayError)
        assert second.code is Code.UNSUPPORTED_MEDIA
        assert "gpusq_in_flight 0.0" in gateway.metrics.render().decode()

    run(scenario)


def test_several_pictures_share_one_deadline(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        asked = gateway.answer_several(
            classify.TASK, None, brings([red_jpeg] * 3), classify.Options(1), Ledger(0.2)
        )
        assert await code_of(asked) is Code.DEADLINE_EXCEEDED
        assert executor.cancelled >= 1

    run(scenario)


def test_what_was_answered_before_the_deadline_is_not_lost_with_the_rest(red_jpeg: bytes):
    class Tiring(FakeExecutor):
        async def infer(self, *asked: Any, **options: Any) -> Any:
            if self.calls == 2:
                self.gate = asyncio.Event()
            return await super().infer(*asked, **options)

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        found = await gateway.answer_several(
            classify.TASK, None, brings([red_jpeg] * 4), classify.Options(1)
        )
        assert isinstance(found[0], Answer)
        assert isinstance(found[1], Answer)
        codes = [one.code for one in found[2:] if isinstance(one, GatewayError)]
        assert codes == [Code.DEADLINE_EXCEEDED] * 2
        text = gateway.metrics.render().decode()
        counted = 'gpusq_requests_total{model="colours",outcome="%s",task="classify"} 2.0'
        assert counted % "ok" in text
        assert counted % "deadline_exceeded" in text
        assert "gpusq_in_flight 0.0" in text

    run(scenario, Tiring(), deadline_s=2)


def test_a_fault_with_one_of_several_pictures_ends_the_others_and_gives_all_back(
    red_jpeg: bytes,
):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.error = ZeroDivisionError("a fault")  # type: ignore[assignment]
        asked = gateway.answer_several(
            classify.TASK, None, brings([red_jpeg] * 8), classify.Options(1)
        )
        with pytest.raises(ZeroDivisionError):
            await asked
        calls = executor.calls
        await asyncio.sleep(0.1)
        assert executor.calls == calls
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario, decode_threads=2)


def test_a_batch_of_tensors_goes_through_the_network_as_it_is():
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        size = executor.models["colours"].card.preprocessing
        batch = np.zeros((3, size.height, size.width, 3), np.uint8)
        answer = await gateway.infer("colours", brings(lambda _: batch))
        assert (answer.model, answer.version) == ("colours", 3)
        assert answer.outputs["scores"].shape == (3, 4)
        assert executor.calls == 1

    run(scenario)


def test_encoded_pictures_become_one_batch(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        answer = await gateway.infer("colours", brings(lambda _: [red_jpeg] * 2))
        assert answer.outputs["scores"].shape == (2, 4)
        assert executor.calls == 1
        assert answer.timings_ms["decode"] > 0

    run(scenario)


def test_another_version_than_the_served_one_is_refused_by_its_number():
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        with pytest.raises(GatewayError, match="no version 7 of the model 'colours'; version 3"):
            await gateway.infer("colours", brings(lambda _: []), version=7)

    run(scenario)


def test_a_client_in_a_hurry_ends_its_request_earlier(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        began = time.monotonic()
        asked = gateway.answer(
            classify.TASK, None, sends(red_jpeg), classify.Options(1), Ledger(0.2)
        )
        with pytest.raises(GatewayError, match=r"no answer within 0\.2 s") as caught:
            await asked
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 5
        assert executor.timeouts_s[-1] <= 0.2

    run(scenario, deadline_s=30)


def test_a_patient_client_waits_no_longer_than_the_service_allows(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        asked = gateway.answer(
            classify.TASK, None, sends(red_jpeg), classify.Options(1), Ledger(600)
        )
        assert await code_of(asked) is Code.DEADLINE_EXCEEDED
        assert executor.timeouts_s[-1] <= 0.2

    run(scenario, deadline_s=0.2)


def test_a_body_that_comes_later_than_its_own_deadline_is_too_late():
    async def slow() -> bytes:
        await asyncio.sleep(60)
        return b""

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        asked = gateway.answer(
            classify.TASK, None, Source(slow, 1), classify.Options(1), Ledger(0.05)
        )
        assert await code_of(asked) is Code.DEADLINE_EXCEEDED

    run(scenario)


def test_a_request_whose_time_is_gone_is_dropped_before_it_is_decoded(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        with gateway._admission.place("colours", 1, 60):
            executor.gate = asyncio.Event()
            hold = asyncio.Event()
            loop = asyncio.get_running_loop()
            gateway._pipeline._decoding.submit(
                lambda: asyncio.run_coroutine_threadsafe(hold.wait(), loop).result()
            )
            ledger = Ledger(0.1)
            asked = gateway.answer(
                classify.TASK, None, sends(red_jpeg), classify.Options(1), ledger
            )
            assert await code_of(asked) is Code.DEADLINE_EXCEEDED
            hold.set()
            executor.gate.set()
            await classified(gateway, None, sends(red_jpeg))
        assert "decode" not in ledger.timings_ms()

    run(scenario)


def test_what_waits_is_refused_once_its_size_is_known_to_be_too_much(red_jpeg: bytes):
    large = encoded(Image.new("RGB", (4000, 4000)))

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        # As if a megapixel took half a second; most pictures have fewer.
        for _ in range(200):
            gateway._admission.estimates.decoded(1e5, 0.15)
        executor.gate = asyncio.Event()
        first = asyncio.ensure_future(classified(gateway, None, sends(red_jpeg)))
        await until(lambda: executor.calls == 1)
        assert await code_of(classified(gateway, None, sends(large))) is Code.OVERLOADED
        executor.gate.set()
        await first
        await classified(gateway, None, sends(large))
        assert b'gpusq_sheds_total{reason="time"} 1.0' in gateway.metrics.render()

    run(scenario)


def test_a_picture_without_pixels_is_one_that_cannot_be_read_however_busy_the_service_is(
    red_jpeg: bytes,
):
    png = encoded(Image.new("RGB", (9, 9)))
    empty = png[:16] + bytes(8) + png[24:]

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        alone = await code_of(classified(gateway, None, sends(empty)))
        executor.gate = asyncio.Event()
        first = asyncio.ensure_future(classified(gateway, None, sends(red_jpeg)))
        await until(lambda: executor.calls == 1)
        assert await code_of(classified(gateway, None, sends(empty))) is alone is Code.BAD_IMAGE
        executor.gate.set()
        await first

    run(scenario)


def test_small_pictures_do_not_make_large_ones_seem_slow():
    small, large = (encoded(Image.new("RGB", (side, side))) for side in (4, 4000))

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        for _ in range(30):
            await classified(gateway, None, sends(small))
        executor.gate = asyncio.Event()
        first = asyncio.ensure_future(classified(gateway, None, sends(small)))
        await until(lambda: executor.calls == 31)
        second = asyncio.ensure_future(classified(gateway, None, sends(large)))
        await asyncio.wait([second], timeout=0.5)
        executor.gate.set()
        await asyncio.gather(first, second)

    run(scenario, deadline_s=10)
