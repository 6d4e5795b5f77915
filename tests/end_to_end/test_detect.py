"""Detectors from training to an answered request."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from compress import pipeline
from compress.__main__ import main
from compress.metrics.detection import detections
from compress.networks.network import Network
from compress.plan import planning
from compress.plan.build import Options
from compress.recipe import Recipe
from contract.card import ModelCard
from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests.conftest import Serve
from tests.end_to_end import systems
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Trial:
    """What one family is put through.

    Args:
        epochs: Of the dense network.
        learns: AP50 that it reaches at least; detectors by queries need far more than a test has.
        seen: Score of the objects that are compared.
    """

    epochs: int
    learns: float = 0.0
    seen: float = 0.0


TRIALS = {
    "mask_rcnn": Trial(45, learns=0.3, seen=0.35),
    "cascade_mask_rcnn": Trial(40, learns=0.3, seen=0.35),
    "detr": Trial(20),
    "deformable_detr": Trial(20),
}


@dataclass(frozen=True)
class System:
    trial: Trial
    recipe: Recipe
    version: Path
    network: Network
    client: httpx.Client

    @property
    def card(self) -> ModelCard:
        return ModelCard.from_json((self.recipe.run / "bundle" / "card.json").read_text())

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.recipe.run / "report.json").read_text())

    @property
    def pictures(self) -> list[Path]:
        annotations = self.recipe.data.evaluate["held out"]
        return sorted((annotations.parents[1] / "images").iterdir())

    def ask(self, picture: Path, **query: Any) -> list[dict[str, Any]]:
        query = {"min_score": 0, **query}
        answer = self.client.post(
            "/v1/detect", content=picture.read_bytes(), headers=PNG, params=query
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["detections"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(family, marks=() if family == "mask_rcnn" else pytest.mark.slow)
        for family in TRIALS
    ],
)
def system(request, tmp_path_factory: pytest.TempPathFactory, serve: Serve):
    folder, family = tmp_path_factory.mktemp(request.param), request.param
    schedule = {"epochs": TRIALS[family].epochs, "batch_size": 8, "learning_rate": 2e-3}
    made = systems.recipe(
        folder,
        family,
        "detect",
        systems.write_objects(folder),
        teacher=schedule,
    )
    version = pipeline.compress(made)
    assert version is not None
    settings = Settings(repository=made.publish.repository, executor="onnxruntime")
    with serve(create_app(settings, choice.load(settings))) as client:
        yield System(TRIALS[family], made, version, systems.quantized(made), client)


def test_what_was_learned_survives_both_stages(system):
    (row,) = system.report["accuracy"]

    assert row["dense"]["box_ap50"] >= system.trial.learns
    assert row["quantized"]["box_ap50"] > row["dense"]["box_ap50"] - 0.15
    (accuracy,) = system.card.accuracy
    assert (accuracy.metric, accuracy.quantized) == ("box_ap", row["quantized"]["box_ap"])


def test_the_service_answers_what_the_network_answers(system):
    exact = []
    for picture in system.pictures:
        masks = "rle" if "masks" in system.network.outputs else "none"
        came = system.ask(picture, masks=masks)
        for one in _expected(system, picture):
            left, top, width, height = one["bbox"]
            box = np.array([left, top, left + width, top + height])
            same = [o for o in came if o["label"] == system.card.labels.names[one["category_id"]]]
            assert same, f"{one} is missing"
            nearest = min(same, key=lambda o: np.abs(_corners(o) - box).max())
            exact.append(
                np.abs(_corners(nearest) - box).max() < 1
                and abs(nearest["score"] - one["score"]) < 0.02
                and _overlap(nearest, one) > 0.9
            )
    assert len(exact) >= 3
    # Of two boxes of one object, rounding may decide which one stays.
    assert np.mean(exact) >= 0.8


def _expected(system: System, picture: Path) -> list[dict[str, Any]]:
    answers = systems.answers(system.network, picture, system.card.preprocessing)
    answer = {name: value[0] for name, value in answers.items()}
    with Image.open(picture) as image:
        found = detections(answer, image.size, system.card.preprocessing)
    return [one for one in found[:5] if one["score"] >= system.trial.seen]


def _overlap(came: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the overlap of two masks; 1 where the network has none."""
    if "segmentation" not in expected:
        return 1.0
    return float(coco_mask.iou([_runs(came["rle"])], [expected["segmentation"]], [0])[0, 0])


def _corners(detection: dict[str, Any]) -> np.ndarray:
    return np.array([detection["box"][side] for side in ("left", "top", "right", "bottom")])


def _runs(rle: dict[str, Any]) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode()}


def test_the_stored_graph_scores_what_the_card_says(system, capsys):
    data = str(system.recipe.data.evaluate["held out"])

    assert main(["evaluate", str(system.version.parent), "--data", data]) == 0

    box_ap = float(capsys.readouterr().out.split("box AP ")[1].split()[0])
    assert box_ap == pytest.approx(system.card.accuracy[0].quantized, abs=0.05)


def test_the_report_says_what_is_dense_and_why(system):
    layers = system.report["layers"]

    assert all(layer["reason"] for layer in layers if not layer["pruned"])
    assert all(layer["kept"] == 0.5 for layer in layers if layer["pruned"])
    assert system.report["sketches"]["of"] == "objects"


@pytest.mark.parametrize(
    "tensorrt", ["10.3.0", *(pytest.param(v, marks=pytest.mark.slow) for v in ("8.5.2", "8.6.1"))]
)
def test_every_form_for_tensorrt_answers_as_the_graph(system, install: Install, tensorrt, tmp_path):
    install(tensorrt)
    # Which of its objects a detector by regions sees that has hardly learnt changes with float16.
    wavers = "masks" in system.network.outputs
    options = Options(body="float32" if wavers else "float16")
    bundle = system.recipe.run / "bundle"
    order = planning.Order(bundle, tmp_path / "models", "planned", options)

    version, checked = planning.plan(order)

    assert checked.parity.holds
    assert len(list(version.glob("*.plan"))) == 1
