"""The real recipe for digits, whole, and a run that is killed and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper

from compress import bundles, evaluate, pipeline, recipe_file, reference
from compress.__main__ import main
from compress.errors import CheckpointError
from compress.recipe import Recipe
from compress.tasks.classify import Classification
from contract.card import ModelCard
from tests.compress import tiny

ROOT = Path(__file__).parents[2]
KILL_WITHIN_S = 600


@dataclass(frozen=True)
class Compressed:
    """One compression of digits and where it went."""

    recipe: Recipe
    version: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.recipe.run / "report.json").read_text())

    @property
    def page(self) -> str:
        return (self.recipe.run / "report.html").read_text()


def below(folder: Path, loaded: Recipe) -> Recipe:
    """Return the recipe with every path of its own below ``folder``."""
    data = loaded.data.model_copy(
        update={
            "train": folder / "data" / "train",
            "evaluate": {"test scans": folder / "data" / "test"},
        }
    )
    publish = loaded.publish.model_copy(update={"repository": folder / "models"})
    return loaded.model_copy(
        update={"data": data, "publish": publish, "run": folder / "runs" / loaded.name}
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    loaded = recipe_file.load(ROOT / "recipes" / "digits.yaml")
    redirected = below(tmp_path_factory.mktemp("digits"), loaded)
    return Compressed(redirected, pipeline.compress(redirected))


def test_the_teacher_is_good_and_the_student_within_two_points(digits):
    (row,) = digits.report["accuracy"]

    assert row["data"] == "test scans"
    assert row["dense"]["top1"] >= 0.95
    assert row["quantized"]["top1"] >= row["dense"]["top1"] - 0.02
    assert {row[stage]["images"] for stage in ("dense", "sparse", "quantized")} == {360}


def test_the_published_graph_scores_what_the_report_says(digits):
    (row,) = digits.report["accuracy"]
    model, card = bundles.find(digits.version.parent)
    images = Classification.opened(
        digits.recipe.data.evaluate["test scans"], card.labels, card.preprocessing
    )

    ask = reference.onnx_asked(model)
    score = evaluate.evaluate(ask, images, evaluate.TopFive(), "published")

    # One picture in 360 may lie where the two runtimes round to different sides.
    assert abs(score.main - row["quantized"]["top1"]) <= 1 / 360 + 1e-9
    assert score.images == 360


def test_the_bundle_is_what_the_repository_serves(digits):
    bundle = digits.recipe.run / "bundle"
    model, card = bundles.find(digits.version.parent)

    assert model.read_bytes() == (bundle / "model.onnx").read_bytes()
    assert card == ModelCard.from_json((bundle / "card.json").read_text())


def test_the_card_says_how_the_network_was_made(digits):
    _, card = bundles.find(digits.version.parent)
    (accuracy,) = card.accuracy
    (row,) = digits.report["accuracy"]

    assert card.labels.names == tuple(digits.recipe.data.labels)
    assert (card.precision.weights, card.precision.sparsity) == ("int8", "2:4")
    assert (accuracy.teacher, accuracy.sparse, accuracy.quantized) == (
        row["dense"]["top1"],
        row["sparse"]["top1"],
        row["quantized"]["top1"],
    )
    assert card.provenance["recipe"] == f"digits {digits.recipe.digest()}"
    assert str(digits.recipe.run.parent) not in card.to_json()


def test_every_pruned_weight_is_two_of_four_in_the_published_graph(digits):
    stored = {
        entry.name: numpy_helper.to_array(entry)
        for entry in onnx.load(digits.version / "model.onnx").graph.initializer
    }
    pruned = [layer for layer in digits.report["layers"] if layer["pruned"]]

    assert len(pruned) == 1 + 3 * 6
    for layer in pruned:
        (weight,) = [v for key, v in stored.items() if key.endswith(f"{layer['name']}.weight")]
        assert weight.dtype == np.int8
        held = (weight.reshape(len(weight), -1, 4) != 0).sum(axis=2)
        assert held.max() <= 2
        assert layer["kept"] == 0.5


def test_the_report_names_every_layer_and_why_it_is_not_pruned(digits):
    layers = digits.report["layers"]

    assert len({layer["name"] for layer in layers}) == len(layers) == 20
    for layer in layers:
        assert layer["pruned"] != bool(layer["reason"])
        assert 0 < layer["weight_error"] < 0.02
        assert layer["macs"] > 0
        assert 5 < layer["output_snr_db"] < 100


def test_the_report_is_complete(digits):
    report = digits.report

    assert report["cost"]["layer_size_ratio"] == pytest.approx(6.4)
    assert report["cost"]["layer_operation_ratio"] == pytest.approx(32)
    assert report["file_bytes"]["quantized"] < report["file_bytes"]["dense"]
    assert set(report["training"]) == {"dense", "sparse", "quantized"}
    assert set(report["training"]["sparse"]["points"][0]) == {
        *("step", "rate", "loss", "hard", "soft", "feature")
    }
    assert {row["batch"] for row in report["latency"]} == {1, 8}
    assert {row["name"] for row in report["latency"]} >= {"ONNX Runtime, float32", "OpenVINO, INT8"}
    assert report["parity"]["agreement"] >= 0.98
    assert report["skipped"] == {}
    assert Recipe.model_validate(report["recipe"]) == digits.recipe
    assert report["layer_losses"].keys() == {"body.vit.layers.2"}
    assert report["layer_weights"] == {"body.vit.layers.2": 1.0}
    assert [score["step"] for score in report["training"]["sparse"]["scores"]] == [
        44 * epoch for epoch in range(9)
    ]
    (row,), last = report["accuracy"], report["training"]["quantized"]["scores"][-1]
    assert last["test scans"] == row["quantized"]["top1"]


def test_the_page_shows_the_numbers_and_needs_no_network(digits):
    page, (row,) = digits.page, digits.report["accuracy"]

    assert f"{100 * row['quantized']['top1']:.1f} %" in page
    assert all(layer["name"] in page for layer in digits.report["layers"])
    assert "the head stays dense" in page
    assert not re.search(
        r"(src|href)\s*=(?!\"data:image/)|@import|url\(|https?://(?!www\.w3\.org)", page
    )
    # What a template leaves behind when a value is missing.
    assert "{{" not in page
    assert not re.search(r">\s*(nan|None|Undefined)\b", page)


def test_nothing_unfinished_stays_in_the_run(digits):
    names = {entry.name for entry in digits.recipe.run.iterdir()}

    assert names == {
        *("recipe.digest", "teacher.pt", "sparse.pt", "quantized.pt"),
        *("bundle", "dense.onnx", "report.json", "report.html", "tensorboard"),
    }


def test_evaluate_finds_the_same_in_the_bundle_and_in_the_repository(digits, tmp_path):
    found = []
    for index, model in enumerate((digits.recipe.run / "bundle", digits.version.parent)):
        file = tmp_path / f"{index}.json"
        data = str(digits.recipe.data.evaluate["test scans"])
        assert main(["evaluate", str(model), "--data", data, "--json", str(file)]) == 0
        found.append(json.loads(file.read_text()))

    assert found[0] == found[1]
    assert found[0]["images"] == 360
    assert found[0]["skipped"] == {}


def test_a_second_call_trains_nothing_and_publishes_nothing_new(digits):
    stages = [digits.recipe.run / f"{name}.pt" for name in ("teacher", "sparse", "quantized")]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in stages]
    served = {
        path: path.read_bytes() for path in digits.version.parent.rglob("*") if path.is_file()
    }

    again = pipeline.compress(digits.recipe)

    assert again == digits.version
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in stages] == before
    assert served == {path: path.read_bytes() for path in again.parent.rglob("*") if path.is_file()}


def test_another_recipe_in_the_same_folder_is_refused(digits):
    other = digits.recipe.model_copy(update={"seed": 1})

    with pytest.raises(CheckpointError, match="--restart"):
        pipeline.compress(other)


def short(folder: Path, name: str) -> Path:
    """Write a recipe of a few seconds whose criterion, loss and data are the demanding ones."""
    plain = yaml.safe_load((ROOT / "recipes" / "digits.yaml").read_text())
    plain["run"] = str(folder / name / "run")
    plain["publish"] = {"repository": str(folder / name / "models")}
    plain["data"]["train"] = str(folder / "data" / "train")
    plain["data"]["evaluate"] = {"test scans": str(folder / "data" / "test")}
    plain["data"]["augment"] = {"crop_scale": [0.7, 1.0], "crop_aspect": 1.2}
    plain["network"]["architecture"]["num_hidden_layers"] = 2
    plain["teacher"]["epochs"] = 2
    plain["distill"]["feature_layers"] = 2
    plain["prune"]["criterion"] = "reconstruct"
    plain["prune"]["schedule"]["epochs"] = 4
    plain["quantize"]["schedule"]["epochs"] = 4
    plain["checkpoint_every_s"] = 0.05
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def kill_when(path: Path, appears: Path) -> None:
    """Run the command and kill it outright as soon as a file is there."""
    command = [sys.executable, "-m", "compress", "compress", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + KILL_WITHIN_S
        while not appears.exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until, f"{appears.name} did not appear"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_run_that_is_killed_in_every_stage_ends_as_one_that_was_not(tmp_path):
    unbroken, killed = recipe_file.load(short(tmp_path, "unbroken")), short(tmp_path, "killed")
    expected = pipeline.compress(unbroken)
    run = recipe_file.load(killed).run

    kill_when(killed, run / "teacher-unfinished.pt")
    assert not (run / "teacher.pt").exists()
    kill_when(killed, run / "sparse-unfinished.pt")
    assert (run / "teacher.pt").exists()
    assert not (run / "sparse.pt").exists()
    kill_when(killed, run / "quantized-unfinished.pt")
    assert not (run / "quantized.pt").exists()
    assert (run / "sparse.pt").exists()
    came = pipeline.compress(recipe_file.load(killed))

    assert (came / "model.onnx").read_bytes() == (expected / "model.onnx").read_bytes()
    for stage in ("teacher", "sparse", "quantized"):
        one, other = (
            torch.load(folder / f"{stage}.pt", weights_only=True) for folder in (unbroken.run, run)
        )
        assert one["scores"] == other["scores"]
        assert one["network"].keys() == other["network"].keys()
        for name, weight in one["network"].items():
            assert torch.equal(weight, other["network"][name]), (stage, name)
        for part in ("points", "layer_losses", "scores", "skipped"):
            assert one["history"][part] == other["history"][part]


def test_unlabelled_pictures_compress_a_checkpoint(tmp_path):
    tiny.body(classes=3).save_pretrained(tmp_path / "checkpoint")
    tiny.write_pictures(tmp_path / "photos", each=8)
    (tmp_path / "photos" / "red" / "00.png").write_bytes(b"no picture")
    tiny.write_pictures(tmp_path / "test", each=3)
    unlabelled = tiny.recipe(
        tmp_path,
        network__architecture={},
        network__checkpoint=str(tmp_path / "checkpoint"),
        teacher=None,
        data__train=str(tmp_path / "photos"),
        data__labelled=False,
        data__augment={"crop_scale": [0.5, 1.0], "flip": True, "mix": 1.0},
        prune__criterion="reconstruct",
        prune__schedule=None,
        description="<script>alert('photos')</script>",
    )

    version = pipeline.compress(unlabelled)

    report = json.loads((unlabelled.run / "report.json").read_text())
    assert set(report["training"]) == {"quantized"}
    assert [Path(path).name for path in report["skipped"]] == ["00.png"]
    _, card = bundles.find(version.parent)
    assert card.provenance["teacher"] == "checkpoint"
    assert card.accuracy[0].images == 9
    page = (unlabelled.run / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "00.png: " in page
