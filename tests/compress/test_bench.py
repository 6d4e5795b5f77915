"""The comparison on a machine without a GPU, and networks made for one that has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress import agreement
from compress.__main__ import main
from compress.plan import recorded, twin_answers
from compress.plan.bundle import read_bundle
from tests import sparse_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sparse_bundle.write(tmp_path / "my-own")


def test_without_a_gpu_the_embedded_runtimes_are_timed_and_the_table_says_so(
    bundle, tmp_path, capsys
):
    file = tmp_path / "bench.json"
    arguments = ["bench", str(bundle), "--batches", "2", "--repeats", "5", "--json", str(file)]

    assert main(arguments) == 0

    said = capsys.readouterr().out
    assert said.startswith("On the CPU: ")
    assert "No plan was measured: expected TensorRT's Python module" in said
    rows = json.loads(file.read_text())["rows"]
    assert [row["contender"] for row in rows] == [
        "ONNX Runtime, float32",
        "OpenVINO, float32",
        "ONNX Runtime, INT8",
        "OpenVINO, INT8",
    ]
    for row in rows:
        # Latency is always of one picture.
        assert set(row["images_per_s"]) == {"1", "2"}
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert rows[0]["ratios"]["ONNX Runtime, float32"]["latency"] == 1


def test_a_model_of_a_repository_is_measured_too(bundle, tmp_path, capsys):
    assert main(["publish", str(bundle), "--repository", str(tmp_path / "models")]) == 0

    model = tmp_path / "models" / "my-own"
    assert main(["bench", str(model), "--batches", "1", "--repeats", "1"]) == 0
    assert "\nmy-own\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_of_random_weights_is_a_bundle_whose_answers_tell_pictures_apart(
    tmp_path, capsys
):
    assert main(["bench", "--size", "tiny", "--export", str(tmp_path)]) == 0

    folder = tmp_path / "deit-tiny"
    assert capsys.readouterr().out.strip() == str(folder)
    # Checks that the weights are 2:4 sparse.
    assert read_bundle(folder).card.precision.sparsity == "2:4"
    pictures = recorded.read(folder)
    answers = twin_answers.read(folder, pictures)
    assert set(answers) == {"bundle", "float", "fp8", "int4"}
    for twin in answers.values():
        assert agreement.compare("classify", pictures.answers, twin, 1e-2).holds
    other = {"scores": pictures.answers["scores"][::-1]}
    assert not agreement.compare("classify", pictures.answers, other, 1e-2).holds
