"""How the benchmarks of the gateway sum up what they measured."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks import beside_servers, empty, kill, overhead, overload
from benchmarks.beside_servers import Turn
from benchmarks.kill import Stop
from benchmarks.load import LOST, REFUSED, Reply
from benchmarks.peers.setups import OURS


def test_overhead_is_the_median_of_the_ratios_of_the_same_round():
    def turns(*cpu_ms: float):
        return [overhead.Turn(one, one / 2, 3.0, 0) for one in cpu_ms]

    found = overhead.summary({overhead.PLAIN: turns(1, 2, 4), overhead.GATEWAY: turns(3, 2, 8)})

    assert found[overhead.PLAIN] == (2, 1, 1, 3, 0)
    assert found[overhead.GATEWAY] == (3, 1.5, 2, 3, 0)


def test_the_empty_network_answers_the_same_for_every_picture(tmp_path: Path):
    empty.write(tmp_path)
    [path] = tmp_path.glob("*/*/model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = (3, empty.FORM.height, empty.FORM.width, 3)

    [scores] = session.run(None, {"image": np.zeros(shape, np.uint8)})

    assert scores.shape == (3, 1000)
    assert scores.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-3)
    assert (scores == scores[0]).all()


def turn(per_second: float, p99_ms: float, failed: int = 0) -> Turn:
    return Turn(per_second, 1.0, p99_ms, failed, 1.0, 1.0)


def test_the_gateway_is_ahead_only_with_more_requests_and_a_lower_p99():
    ours = {8: [turn(10, 50), turn(30, 40), turn(20, 60)]}

    assert beside_servers.median(ours[8]) == turn(20, 50)
    assert not beside_servers.behind({OURS: ours, "peer": {8: [turn(19, 51)]}}, OURS)
    assert len(beside_servers.behind({OURS: ours, "peer": {8: [turn(21, 51)]}}, OURS)) == 1
    assert len(beside_servers.behind({OURS: ours, "peer": {8: [turn(21, 49)]}}, OURS)) == 2
    # One connection is not a load.
    one = {1: ours[8]}
    assert not beside_servers.behind({OURS: one, "peer": {1: [turn(99, 1)]}}, OURS)


def replies(*of: tuple[str, float]) -> list[Reply]:
    """Return replies that were due a second apart."""
    return [
        Reply(outcome, float(at), seconds, outcome != "internal")
        for at, (outcome, seconds) in enumerate(of)
    ]


def test_goodput_leaves_out_what_came_too_late():
    came = replies(("ok", 0.1), ("ok", 2.5), ("overloaded", 0.01), ("ok", 0.2), ("ok", 0.3))

    found = overload.summary(0.8, came, [100, 100, 101, 102], 2.0)

    assert found.goodput == 3 / 4
    assert found.outcomes == {"ok": 4, "overloaded": 1}
    assert (found.accepted_p99_s, found.refused_p99_s) == (2.5, 0.01)
    assert overload.misses(found, 2.0) == ["p99 of accepted beyond the deadline"]
    assert not overload.misses(found, 3.0)


@pytest.mark.parametrize(
    ("outcome", "memory", "peak", "missed"),
    [
        ("ok", [100, 100], 9.0, "goodput below 90% of the peak"),
        ("ok", [100, 120], 1.0, "memory grew by more than 10%"),
        (LOST, [100, 100], 1.0, "not answered as promised: {'no answer': 1}"),
        (REFUSED, [100, 100], 1.0, "not answered as promised: {'no connection': 1}"),
        ("internal", [100, 100], 1.0, "not answered as promised: {'internal': 1}"),
    ],
)
def test_each_goal_of_the_overload_can_be_missed(outcome, memory, peak, missed):
    came = replies(("ok", 0.1), (outcome, 0.1), ("ok", 0.1), ("ok", 0.1))

    assert overload.misses(overload.summary(peak, came, memory, 2.0), 2.0) == [missed]


def test_a_refusal_that_says_nothing_is_seen():
    came = [Reply("ok", 0.0, 0.1), Reply("overloaded", 1.0, 0.1, retry_after=False)]

    assert overload.misses(overload.summary(1.0, came, [1], 2.0), 2.0) == [
        "1 refusals do not say when to try again"
    ]


def test_a_scenario_tells_first_error_and_recovery():
    came = [
        Reply("ok", 0.0, 0.1),
        Reply("executor_unavailable", 1.0, 0.25),
        Reply("executor_unavailable", 3.1, 0.4),
        Reply("ok", 3.2, 0.5),
        Reply("ok", 3.1, 2.0),
    ]

    found = kill.summary(came, harmed_s=1.0, mended_s=3.0)

    assert found.first_error_s == pytest.approx(0.25)
    assert found.ok_again_s == pytest.approx(0.7)
    assert found.all_ok_s == pytest.approx(0.5)
    assert found.longest_s == 2.0
    assert not kill.faults({"killed": found}, Stop({"REST": {"ok": 2, REFUSED: 3}}, 0, 1.0))
    row = "| killed | 5 | 3 | 2 executor_unavailable | 0 | 0.25 s | 0.70 s | 0.50 s | 2.00 s |"
    assert kill.table({"killed": found})[-1] == row


def test_what_should_not_have_been_is_said():
    lost = kill.summary([Reply(LOST, 0.0, 0.1)], harmed_s=0.0, mended_s=1.0)

    said = kill.faults({"killed": lost}, Stop({"gRPC": {LOST: 2}}, 1, 1.0))

    assert said == [
        "killed: 1 requests had no answer",
        "killed: nothing was answered after the mend",
        "gateway stopped: 2 requests over gRPC had no answer",
        "the gateway ended with 1",
    ]
