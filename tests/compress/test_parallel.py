"""Two real processes under torchrun against one, on the same recipe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compress import pipeline
from compress.recipe import Recipe
from tests.compress import tiny

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def recipe(folder: Path, name: str) -> dict[str, Any]:
    """Return a recipe that uses what depends on the whole batch: blends and agreement."""
    plain = tiny.plain_recipe(folder)
    plain["run"] = str(folder / name / "run")
    plain["publish"] = {"repository": str(folder / name / "models")}
    plain["network"] = {"checkpoint": str(folder / "checkpoint"), "mean": [0.5] * 3}
    plain["data"].update(labelled=False, augment={"mix": 0.8})
    plain["distill"] = {"feature_layers": 2, "feature": 20}
    plain["prune"]["criterion"] = "reconstruct"
    del plain["teacher"]
    return plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    tiny.body().save_pretrained(folder / "checkpoint")
    tiny.write_pictures(folder / "train", each=8)
    tiny.write_pictures(folder / "test", each=3)
    return folder


def in_two(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe(folder, name)))
    command = [sys.executable, *LAUNCH, "-m", "compress", "compress", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report:") == 1
    return json.loads((folder / name / "run" / "report.json").read_text())


def test_two_processes_train_along_the_curve_of_one(folder):
    two = in_two(folder, "two")
    alone = Recipe.model_validate(recipe(folder, "one"))
    pipeline.compress(alone)
    one = json.loads((alone.run / "report.json").read_text())

    assert one["training"].keys() == two["training"].keys() == {"sparse", "quantized"}
    for stage, record in one["training"].items():
        for expected, came in zip(record["points"], two["training"][stage]["points"], strict=True):
            # Sums in another order. Where they tip a value to the next INT8 step, one activation
            # of many moves by a 127th of its range.
            rel = 1e-3 if stage == "sparse" else 5e-3
            assert came == pytest.approx(expected, rel=rel), stage
    assert one["layer_losses"] == pytest.approx(two["layer_losses"], rel=1e-3)
    assert [row["sparse"]["images"] for row in two["accuracy"]] == [9]
    assert one["accuracy"][0]["dense"] == two["accuracy"][0]["dense"]
    for name in ("sparse", "quantized"):
        states = [
            torch.load(folder / run / "run" / f"{name}.pt", weights_only=True)["masks"]
            for run in ("one", "two")
        ]
        assert all(torch.equal(states[0][key], mask) for key, mask in states[1].items())
