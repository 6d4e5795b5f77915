"""The gateway without a transport, over the fake executor."""

import asyncio
import re
import threading
import time

import pytest

from service.answer import Source
from service.errors import Code, GatewayError, ModelError, WrongTaskError
from service.gateway import Gateway
from service.settings import Settings
from service.tasks import classify, detect
from service.tasks.task import Asked, Outputs, Task
from tests.service.fakes import FakeExecutor
from tests.service.scenario import classified, code_of, run, sends, until


def counted(gateway: Gateway, outcome: str, model: str = "colours") -> bool:
    line = rf'gpusq_requests_total\{{model="{model}",outcome="{outcome}",task="\w+"\}} 1.0'
    return re.search(line, gateway.metrics.render().decode()) is not None


def test_the_best_class_comes_first(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        answer = await classified(gateway, None, sends(red_jpeg), top_k=1)
        assert (answer.model, answer.version) == ("colours", 3)
        assert [p.label for p in answer.result] == ["red"]
        assert (answer.width_px, answer.height_px) == (64, 48)

    assert counted(run(scenario), "ok")


def test_the_stages_add_up_to_no_more_than_the_total(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        timings_ms = (await classified(gateway, None, sends(red_jpeg))).timings_ms
        total_ms = timings_ms.pop("total")
        assert all(ms >= 0 for ms in timings_ms.values())
        assert timings_ms["decode"] > 0
        # Each of the six is rounded to a microsecond.
        assert sum(timings_ms.values()) <= total_ms + 0.006

    run(scenario)


def test_whoever_finds_no_place_is_refused_before_a_byte_is_read(red_jpeg: bytes):
    async def never() -> bytes:
        raise AssertionError

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        # One decodes, one is in the network, one waits.
        admitted = [
            asyncio.ensure_future(classified(gateway, None, sends(red_jpeg))) for _ in range(3)
        ]
        await until(lambda: executor.calls == 1)

        with pytest.raises(GatewayError) as caught:
            await classified(gateway, None, Source(never, 1))

        assert caught.value.code is Code.OVERLOADED
        assert caught.value.retry_after_s == 1
        executor.gate.set()
        answers = await asyncio.gather(*admitted)
        assert len(answers) == 3  # nothing that was accepted is lost
        await classified(gateway, None, sends(red_jpeg))  # and the places are free again

    assert counted(run(scenario, queue_limit=1), "overloaded")


def test_no_more_batches_run_at_once_than_the_executor_wants(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        answers = [
            asyncio.ensure_future(classified(gateway, None, sends(red_jpeg))) for _ in range(5)
        ]
        await until(lambda: executor.calls == 2)
        await asyncio.sleep(0.05)
        assert executor.calls == 2
        executor.gate.set()
        queued_ms = sorted(a.timings_ms["queue"] for a in await asyncio.gather(*answers))
        assert queued_ms[-1] > 40

    run(scenario, FakeExecutor(concurrency=2))


def test_after_the_deadline_nobody_waits(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        assert await code_of(classified(gateway, None, sends(red_jpeg))) is Code.DEADLINE_EXCEEDED
        assert executor.cancelled == 1
        executor.gate.set()
        await classified(gateway, None, sends(red_jpeg))

    assert counted(run(scenario, deadline_s=0.3), "deadline_exceeded")


def test_what_takes_long_hears_that_nobody_waits_any_more(red_jpeg: bytes):
    heard = threading.Event()

    def predict(outputs: Outputs, asked: Asked[None]) -> None:
        while not asked.given_up():
            time.sleep(0.001)
        heard.set()

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        slow: Task[None, None] = Task("classify", classify.require_outputs, predict)
        answer = gateway.answer(slow, None, sends(red_jpeg), None)
        assert await code_of(answer) is Code.DEADLINE_EXCEEDED
        assert heard.wait(timeout=10)
        await classified(gateway, None, sends(red_jpeg))

    run(scenario, deadline_s=0.3)


def test_answers_are_made_while_the_threads_that_decode_are_busy(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        answer = asyncio.ensure_future(classified(gateway, None, sends(red_jpeg)))
        await until(lambda: executor.calls == 1)
        release = threading.Event()
        gateway._pipeline._decoding.submit(release.wait)
        try:
            executor.gate.set()
            assert (await answer).result[0].label == "red"
        finally:
            release.set()

    run(scenario)


def test_bytes_that_do_not_come_are_not_awaited_for_ever():
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        async def hangs() -> bytes:
            await asyncio.sleep(60)
            return b""

        assert await code_of(classified(gateway, None, Source(hangs, 1))) is Code.READ_TIMEOUT

    run(scenario, read_timeout_s=0.02)


def test_a_cancelled_request_frees_its_place(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.gate = asyncio.Event()
        request = asyncio.ensure_future(classified(gateway, None, sends(red_jpeg)))
        await until(lambda: executor.calls == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert executor.cancelled == 1
        assert "gpusq_in_flight 0.0" in gateway.metrics.render().decode()
        executor.gate.set()
        await classified(gateway, None, sends(red_jpeg))

    assert counted(run(scenario), "cancelled")


def test_a_network_that_fails_is_an_internal_error(red_jpeg: bytes):
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        executor.error = ModelError("out of memory")
        assert await code_of(classified(gateway, None, sends(red_jpeg))) is Code.INTERNAL
        executor.error = None
        await classified(gateway, None, sends(red_jpeg))

    assert counted(run(scenario), "internal")


def test_a_model_that_does_not_exist_never_becomes_a_metric():
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        assert await code_of(classified(gateway, "x" * 99, sends(b""))) is Code.UNKNOWN_MODEL

    gateway = run(scenario)
    assert counted(gateway, "unknown_model", model="")
    assert b"xxx" not in gateway.metrics.render()


def test_a_model_of_another_task_says_what_it_can_do_and_is_counted_for_it():
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        with pytest.raises(WrongTaskError, match="can classify, it cannot detect") as caught:
            await gateway.answer(detect.TASK, "colours", sends(b""), detect.Options())
        assert (caught.value.code, caught.value.task) == (Code.WRONG_TASK, "classify")

    assert counted(run(scenario), "wrong_task")


def test_a_task_without_a_model_has_no_default():
    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        with pytest.raises(GatewayError, match="no model that can detect") as caught:
            await gateway.answer(detect.TASK, None, sends(b""), detect.Options())
        assert caught.value.code is Code.UNKNOWN_MODEL
        assert gateway.defaults == {"classify": "colours"}

    assert counted(run(scenario), "unknown_model", model="")


def test_a_model_that_cannot_be_loaded_says_why():
    executor = FakeExecutor()
    executor.unavailable["other"] = "its file is cut off"

    async def scenario(gateway: Gateway, executor: FakeExecutor) -> None:
        with pytest.raises(GatewayError, match="its file is cut off") as caught:
            await classified(gateway, "other", sends(b""))
        assert caught.value.code is Code.MODEL_UNAVAILABLE

    run(scenario, executor)


@pytest.mark.parametrize(
    ("models", "wanted", "default"),
    [
        (("b", "a"), None, "a"),
        (("a", "deit-tiny"), None, "deit-tiny"),
        (("a", "deit-tiny"), "a", "a"),
    ],
)
def test_the_default_model(models: tuple[str, ...], wanted: str | None, default: str):
    gateway = Gateway(FakeExecutor(models=models), Settings(default_model=wanted))

    assert gateway.default == default
    gateway.close()
