import dataclasses

import pytest

from benchmarks import step_cost
from benchmarks.step_cost import CONTENDERS, INT8, PLAIN, SPARSE, TEACHER, Settings
from tests.compress import tiny

SMALL = Settings(tiny.ARCHITECTURE, batch=4, autocast="float32", steps=2, device="cpu", threads=1)


def test_every_contender_is_timed_against_fine_tuning():
    found = step_cost.times(SMALL, turns=3)

    assert list(found) == [PLAIN, SPARSE, INT8, TEACHER]
    assert found[PLAIN][1::2] == [1, 1]
    # Each does what the next one does, and more.
    computed_ms = [found[name][2] for name in (INT8, SPARSE, TEACHER)]
    assert computed_ms == sorted(computed_ms, reverse=True)
    assert len(step_cost.COLUMNS) == len(found[INT8]) + 2


def test_ratios_are_those_of_the_same_turn_and_of_the_middle_one():
    plain = [(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)]
    taken = [(3.0, 5.0), (2.0, 7.0), (8.0, 6.0)]

    assert list(step_cost._medians(taken, plain)) == [3000.0, 2.0, 6000.0, 6.0]


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_turn_counts_its_steps_alone(name):
    seen = []
    takes = step_cost.contender(SMALL, name)

    def noted(steps):
        takes(seen.append(batches) or batches for batches in steps)

    assert min(step_cost.turn(SMALL, noted)) > 0
    assert len(seen) == 2 + SMALL.steps + 1


def test_the_peak_of_memory_holds_what_training_keeps():
    wide = {**tiny.ARCHITECTURE, "patch_size": 1}
    settings = dataclasses.replace(SMALL, architecture=wide, batch=512)

    peak_mb = step_cost.peak_mb(settings, PLAIN)

    # Of both blocks at least the inputs of the two FFN layers: 65 tokens, 24 and 48 channels.
    assert peak_mb > 2 * 512 * 65 * (24 + 48) * 4 / 1e6
