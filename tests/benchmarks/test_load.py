"""The client of the benchmarks, against a small server that misbehaves when told to."""

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from benchmarks import load, processes
from benchmarks.load import LOST, REFUSED, HttpClient
from benchmarks.processes import Server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"status":429,"code":"overloaded"}'
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


@asynccontextmanager
async def answering(answer, after_s: float = 0.0):
    """Give each request an answer, or end its connection where there is none."""

    writers = []

    async def talk(reader, writer):
        writers.append(writer)
        while await reader.readline():
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            await asyncio.sleep(after_s)
            if (said := answer()) is None:
                break
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        client = HttpClient(port, [load.post("/", b"a picture", "image/jpeg")])
        yield client
        await client.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)


def test_askers_wait_for_their_answers_and_keep_their_connections():
    async def run():
        async with answering(lambda: OK, after_s=0.01) as client:
            replies = await load.counted(client, 3, 30)
            assert len(client._idle) == 3
        return replies

    replies = asyncio.run(run())

    assert [reply.outcome for reply in replies] == ["ok"] * 30
    assert all(reply.seconds >= 0.009 for reply in replies)


def test_a_refusal_has_its_code_and_says_when_to_try_again():
    async def run():
        async with answering(lambda: BUSY) as client:
            [reply] = await load.counted(client, 1, 1)
        return reply

    reply = asyncio.run(run())

    assert (reply.outcome, reply.retry_after) == ("overloaded", True)


def test_a_connection_that_ends_is_a_loss_and_one_that_is_refused_is_none():
    async def run():
        async with answering(lambda: None) as client:
            [lost] = await load.counted(client, 1, 1)
        nobody = HttpClient(processes.free_port(), [b""])
        [refused] = await load.counted(nobody, 1, 1)
        return lost.outcome, refused.outcome

    assert asyncio.run(run()) == (LOST, REFUSED)


def test_an_open_load_does_not_wait_and_counts_from_when_a_request_was_due():
    async def run():
        async with answering(lambda: OK, after_s=0.2) as client:
            return await load.open_load(client, 200, 0.5)

    replies = asyncio.run(run())

    # 100 on average, by a fixed seed; askers one after the other would come to three.
    assert 60 < len(replies) < 140
    assert all(reply.ok and reply.seconds >= 0.19 for reply in replies)


def test_a_server_counts_with_what_it_started_in_other_sessions():
    burn = "import time\nwhile time.process_time() < 0.2: pass\n"
    child = [sys.executable, "-c", f"{burn}time.sleep(30)"]
    parent = f"import subprocess, time\nsubprocess.Popen({child}, start_new_session=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{parent}time.sleep(30)"], start_new_session=True
    )
    server = Server(process, 0, processes.ROOT)
    try:
        until = time.monotonic() + 20
        while (usage := server.usage()).cpu_s - usage.main_cpu_s < 0.15:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert usage.processes == 2
        assert usage.rss_bytes > 1 << 20
        assert usage.main_cpu_s < usage.cpu_s
    finally:
        processes.stop(server)
    assert server.usage().processes == 0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 51), (0.99, 100), (0.0, 1)])
def test_quantiles(share: float, expected: int):
    assert load.quantile(list(range(100, 0, -1)), share) == expected
