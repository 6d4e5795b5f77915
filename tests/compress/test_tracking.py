import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compress import pipeline, stages
from compress.errors import RecipeError
from compress.parallel import launched
from compress.tracking import Tracker, metric_names
from tests.compress import tiny

ODD = "ImageNet (10 classes)"
STAGES = ("teacher", "sparse", "quantized")


@pytest.fixture
def folder(tmp_path):
    tiny.write_pictures(tmp_path / "train", each=4)
    tiny.write_pictures(tmp_path / "test", each=1)
    return tmp_path


def scalars(folder, experiment):
    found = EventAccumulator(str(folder / "tensorboard" / experiment)).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_metrics_of_each_stage_are_in_tensorboards_files(tmp_path):
    tracker = Tracker(["tensorboard"], tmp_path, "digits", {"seed": 0})

    tracker.log("sparse", {"loss": 2.5}, 10)
    tracker.log("sparse", {"loss": 1.5}, 20)
    tracker.log("quantized", {"loss": 0.5}, 30)
    tracker.close()

    found = scalars(tmp_path, "digits")
    assert found == {"sparse/loss": [(10, 2.5), (20, 1.5)], "quantized/loss": [(30, 0.5)]}


def test_without_trackers_nothing_is_written(tmp_path):
    tracker = Tracker([], tmp_path, "digits", {})
    tracker.log("sparse", {"loss": 1.0}, 1)
    tracker.close()

    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_refused_by_name(tmp_path):
    with pytest.raises(RecipeError, match="comet_ml is not installed"):
        Tracker(["tensorboard", "comet_ml"], tmp_path, "digits", {})


def test_the_steps_of_a_run_never_go_back_from_one_stage_to_the_next(folder):
    schedule = {**tiny.SCHEDULE, "evaluate_every": 1}
    parts = ("teacher", "prune__schedule", "quantize__schedule")
    recipe = tiny.recipe(folder, **dict.fromkeys(parts, schedule))

    pipeline.networks(pipeline.prepare(recipe, launched()))

    # Twelve pictures in batches of four, twice: six steps a stage, looked at first and every three.
    found = scalars(recipe.run, "tiny")
    names = [f"{stage}/held out" for stage in STAGES]
    steps = [[step for step, _ in found[name]] for name in names]
    assert steps == [[0, 3, 6], [6, 9, 12], [12, 15, 18]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["loss", "test scans"], ["s/loss", "s/test scans"]),
        ([ODD], ["s/ImageNet _10 classes_"]),
        (["a/../b", "..", ""], ["s/a_.._b", "s/__", "s/_"]),
        (["a (1)", "a [1]"], ["s/a _1_", "s/a _1__"]),
    ],
)
def test_names_hold_what_every_tracker_takes_and_differ(names, expected):
    assert metric_names("s", names) == expected


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(tmp_path, caplog):
    tracker = Tracker(["tensorboard"], tmp_path, "digits", {})

    with caplog.at_level(logging.WARNING):
        # TensorBoard raises at what is no number.
        tracker.log("sparse", {"loss": {"no": object()}}, 1)
        tracker.log("sparse", {"loss": 1.0}, 2)
    tracker.close()

    (record,) = caplog.records
    assert "the tracker tensorboard failed and is left out" in record.getMessage()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_every_metric_of_every_stage(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    tracker = Tracker(["mlflow"], tmp_path / "run", "digits", {"seed": 0})

    tracker.log("sparse", {ODD: 0.5}, 10)
    tracker.log("quantized", {ODD: 0.75}, 20)
    tracker.close()

    (run,) = mlflow.search_runs(experiment_names=["digits"], output_format="list")
    assert run.data.metrics == {
        metric_names(s, [ODD])[0]: v for s, v in [("sparse", 0.5), ("quantized", 0.75)]
    }
    assert run.info.status == "FINISHED"
    mlflow.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_keep_the_metrics_of_every_stage(folder, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    longer = {**tiny.SCHEDULE, "epochs": 6}
    recipe = tiny.recipe(folder, trackers=["wandb"], teacher=longer)
    work = pipeline.prepare(recipe, launched())
    dense = stages.dense_teacher(work)
    layers = stages.layers_of(work, dense.network)
    sparse, masks = stages.sparse_student(work, dense, layers)
    stages.quantized_student(work, dense, sparse, layers, masks)

    # The row before the last is the last that its summary shows; what it drops is not there.
    work.tracker.log("end", {"of": 0.0}, 1000)
    kept = set(wandb.run.summary.keys())
    work.tracker.close()
    assert {f"{stage}/loss" for stage in STAGES} <= kept
