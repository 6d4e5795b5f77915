import sys
import threading

import pytest

from service.metrics import STAGES, Metrics
from tests.service.fakes import FakeExecutor


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics("fake")
    made.take_up(FakeExecutor().models, ["broken"])
    return made


def test_every_stage_is_there_before_the_first_request(metrics: Metrics):
    text = metrics.render().decode()

    for stage in STAGES:
        assert (
            f'gpusq_stage_seconds_count{{model="colours",stage="{stage}",task="classify"}} 0.0'
            in text
        )


def test_a_stage_lands_in_its_bucket(metrics: Metrics):
    metrics.observe("colours", {"decode": 0.0016}, total_s=0.01)

    text = metrics.render().decode()
    bucket = 'gpusq_stage_seconds_bucket{le="%s",model="colours",stage="decode",task="classify"} %s'
    assert bucket % ("0.001", "0.0") in text
    assert bucket % ("0.002", "1.0") in text
    assert 'gpusq_request_seconds_sum{model="colours",task="classify"} 0.01' in text


def test_models_are_described(metrics: Metrics):
    text = metrics.render().decode()

    assert (
        'gpusq_model_info{executor="fake",model="colours",precision="float32",'
        'sparsity="dense",task="classify",version="3"} 1.0'
    ) in text


def test_two_instances_share_nothing(metrics: Metrics):
    other = Metrics("fake")
    other.take_up(FakeExecutor().models, [])

    other.count("colours", "ok", "classify")

    mine = metrics.render().decode()
    assert 'gpusq_requests_total{model="colours",outcome="ok",task="classify"} 0.0' in mine


def test_whoever_reads_while_models_change_misses_none(metrics: Metrics):
    models = FakeExecutor().models
    told = (
        'gpusq_model_ready{executor="fake",model="colours"}',
        'gpusq_model_info{executor="fake"',
    )

    def change() -> None:
        for i in range(2000):
            metrics.take_up(models, ["broken"] * (i % 2))

    changing = threading.Thread(target=change)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        changing.start()
        texts = []
        while changing.is_alive():
            texts.append(metrics.render().decode())
        changing.join()
    finally:
        sys.setswitchinterval(interval_s)

    assert [text for text in texts if not all(one in text for one in told)] == []


def test_models_that_are_gone_are_told_no_more(metrics: Metrics):
    metrics.take_up({}, ["broken"])

    text = metrics.render().decode()
    assert 'gpusq_model_ready{executor="fake",model="broken"} 0.0' in text
    assert 'gpusq_model_ready{executor="fake",model="colours"}' not in text
    assert "gpusq_model_info{" not in text
    assert "gpusq_model_behind{" not in text
