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
