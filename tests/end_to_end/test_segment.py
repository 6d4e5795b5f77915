"""UPerNet from training to an answered request."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from compress import pipeline
from compress.__main__ import main
from compress.metrics.segmentation import of_picture
from compress.networks.network import Network
from compress.plan import planning
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
class System:
    recipe: Recipe
    version: Path
    network: Network

    @property
    def card(self) -> ModelCard:
        return ModelCard.from_json((self.recipe.run / "bundle" / "card.json").read_text())

    @property
    def pictures(self) -> list[Path]:
        return sorted(self.recipe.data.evaluate["held out"].iterdir())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    folder = tmp_path_factory.mktemp("upernet")
    made = systems.recipe(folder, "upernet", "segment", systems.write_scenes(folder))
    version = pipeline.compress(made)
    assert version is not None
    return System(made, version, systems.quantized(made))


@pytest.fixture(scope="module")
def client(system: System, serve: Serve):
    settings = Settings(repository=system.recipe.publish.repository, executor="onnxruntime")
    with serve(create_app(settings, choice.load(settings))) as asking:
        yield asking


def test_what_was_learned_survives_both_stages(system):
    (row,) = json.loads((system.recipe.run / "report.json").read_text())["accuracy"]

    assert row["dense"]["mean_iou"] > 0.5
    assert row["quantized"]["mean_iou"] > row["dense"]["mean_iou"] - 0.1
    (accuracy,) = system.card.accuracy
    assert accuracy.metric == "mean_iou"
    assert accuracy.quantized == row["quantized"]["mean_iou"]


def test_the_service_answers_what_the_network_answers(system, client):
    for picture in system.pictures:
        answer = client.post("/v1/segment", content=picture.read_bytes(), headers=PNG)

        assert answer.status_code == 200, answer.text
        came = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["class_map"]))))
        seen = systems.answers(system.network, picture, system.card.preprocessing)["class_map"][0]
        with Image.open(picture) as image:
            expected = of_picture(seen, image.size, system.card.preprocessing)
        assert came.shape == expected.shape
        # Rounding may tip pixels on the border of two classes.
        assert (came != expected).mean() < 0.02


def test_the_largest_class_of_the_answer_is_the_largest_of_the_map(system, client):
    found = client.post("/v1/segment", content=system.pictures[0].read_bytes(), headers=PNG).json()

    areas = [entry["area_px"] for entry in found["classes"]]
    assert areas == sorted(areas, reverse=True)
    assert sum(areas) + found["unseen_px"] == found["image"]["width"] * found["image"]["height"]


def test_a_segmenter_does_not_classify(client: httpx.Client):
    refused = client.post("/v1/classify", params={"model": "upernet"}, content=b"", headers=PNG)

    assert refused.status_code == 422
    assert "/v1/segment" in refused.json()["detail"]


def test_the_stored_graph_scores_what_the_card_says(system, tmp_path, capsys):
    data = str(system.recipe.data.evaluate["held out"])

    assert main(["evaluate", str(system.version.parent), "--data", data]) == 0

    said = capsys.readouterr().out
    mean_iou = float(said.split("mean IoU ")[1].split()[0])
    assert mean_iou == pytest.approx(system.card.accuracy[0].quantized, abs=0.02)
    assert "pixel accuracy" in said


def test_the_report_draws_where_both_networks_differ(system):
    page = (system.recipe.run / "report.html").read_text()
    facts = json.loads((system.recipe.run / "report.json").read_text())

    assert "mean IoU" in page
    assert facts["sketches"]["of"] == "pixels"
    assert facts["sketches"]["pictures"] == 5
    assert page.count("as the compressed network sees it") == len(facts["sketches"]["examples"])
    assert set(facts["sketches"]["legend"]) <= set(system.card.labels.names)


def test_wide_convolutions_are_rounded_and_dense_with_a_reason(system):
    layers = json.loads((system.recipe.run / "report.json").read_text())["layers"]

    wide = [layer for layer in layers if layer["shape"][2:] == [3, 3]]
    assert wide
    assert all(layer["kept"] == 1 and layer["reason"] for layer in wide)
    pruned = [layer for layer in layers if layer["pruned"]]
    assert all(layer["kept"] == 0.5 for layer in pruned)
    assert {"query", "FFN out", "patch merging", "convolution"} <= {
        layer["role"] for layer in pruned
    }


@pytest.mark.parametrize(
    "tensorrt", ["10.3.0", *(pytest.param(v, marks=pytest.mark.slow) for v in ("8.5.2", "8.6.1"))]
)
def test_every_form_for_tensorrt_answers_as_the_graph(system, install: Install, tensorrt, tmp_path):
    install(tensorrt)
    order = planning.Order(system.recipe.run / "bundle", tmp_path / "models", "planned")

    version, checked = planning.plan(order)

    assert checked.parity.holds
    assert len(list(version.glob("*.plan"))) == 1
