import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compress.errors import RecipeError
from compress.tracking import Tracker


def test_metrics_of_each_stage_are_in_tensorboards_files(tmp_path):
    tracker = Tracker(["tensorboard"], tmp_path, "digits", {"seed": 0})

    tracker.log("sparse", {"loss": 2.5}, 10)
    tracker.log("sparse", {"loss": 1.5}, 20)
    tracker.log("quantized", {"loss": 0.5}, 10)
    tracker.close()

    found = EventAccumulator(str(tmp_path / "tensorboard" / "digits")).Reload()
    assert set(found.Tags()["scalars"]) == {"sparse/loss", "quantized/loss"}
    points = [(event.step, event.value) for event in found.Scalars("sparse/loss")]
    assert points == [(10, 2.5), (20, 1.5)]


def test_without_trackers_nothing_is_written(tmp_path):
    tracker = Tracker([], tmp_path, "digits", {})
    tracker.log("sparse", {"loss": 1.0}, 1)
    tracker.close()

    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_refused_by_name(tmp_path):
    with pytest.raises(RecipeError, match="wandb is not installed"):
        Tracker(["tensorboard", "wandb"], tmp_path, "digits", {})
