import threading
import time

from service.ledger import Ledger


def test_only_stages_that_were_reached_are_named_in_their_order():
    ledger = Ledger()
    with ledger.stage("decode"):
        pass
    with ledger.stage("read"):
        pass

    assert list(ledger.stages_s()) == ["read", "decode"]
    assert list(ledger.timings_ms()) == ["read", "decode", "total"]


def test_the_spans_of_one_stage_add_up():
    ledger = Ledger()
    for _ in range(2):
        with ledger.stage("queue"):
            time.sleep(0.01)

    assert 0.02 <= ledger.stages_s()["queue"] <= ledger.total_s()


def test_a_stage_that_still_runs_counts_until_now():
    ledger = Ledger()
    span = ledger.begin("infer")
    time.sleep(0.01)
    first = ledger.stages_s()["infer"]
    time.sleep(0.01)

    assert 0.01 <= first < ledger.stages_s()["infer"]
    span.end()
    assert ledger.stages_s() == ledger.stages_s()


def test_a_stage_may_end_in_another_thread():
    ledger = Ledger()
    span = ledger.begin("queue")
    worker = threading.Thread(target=span.end)
    worker.start()
    worker.join()

    assert ledger.stages_s() == ledger.stages_s()
