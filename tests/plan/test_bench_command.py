"""The commands that measure, on a stand-in for a GPU machine where nothing else is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from compress.__main__ import main
from tests import sparse_bundle
from tests.standin.gpu import Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]
ROOT = Path(__file__).parents[2]
QUICK = ["--batches", "1", "2", "--repeats", "2"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sparse_bundle.write(tmp_path / "bundles" / "deit-tiny")


def test_bench_prints_the_table_and_writes_it_in_three_forms(
    bundle, install: Install, tmp_path, capsys
):
    install("10.3.0", Gpu(name="H100", capability=(9, 0)))
    files = {kind: tmp_path / f"bench.{kind}" for kind in ("json", "markdown", "svg")}

    arguments = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    assert main(["bench", str(bundle), *QUICK, *arguments]) == 0

    said = capsys.readouterr().out
    assert said.startswith("H100 (9.0)")
    assert "INT8 2:4 over INT8 dense: latency" in said
    assert len(json.loads(files["json"].read_text())["rows"]) == 7
    assert "**deit-tiny**" in files["markdown"].read_text()
    assert files["svg"].read_text().startswith("<svg")


def test_bench_of_a_broken_bundle_ends_in_one_line(install: Install, tmp_path, capsys):
    install("10.3.0")

    assert main(["bench", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("gpusq: expected a bundle")


def test_the_gpu_program_builds_checks_and_measures(bundle, install: Install, tmp_path, capsys):
    install("8.6.0", Gpu(name="A100", capability=(8, 0)))

    ended = gpu.main(
        [str(bundle.parent), "--out", str(tmp_path / "out"), "--batches", "1", "2", "--calls", "2"]
    )

    said = capsys.readouterr().out
    assert ended == 0
    assert "Every plan answers as ONNX Runtime does." in said
    assert "deit-tiny, INT8 2:4: latency 1.79x over FP32: " in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"bench.json", "bench.md", "bench.svg", "deit-tiny-sm80-8.6.0.timing"}


def test_the_gpu_program_fails_where_answers_are_not_recorded(
    bundle, install: Install, tmp_path, capsys
):
    install("10.3.0")
    (bundle / "twins.npz").unlink()

    assert (
        gpu.main([str(bundle), "--out", str(tmp_path / "out"), "--batches", "1", "--calls", "2"])
        == 1
    )
    assert "deit-tiny, FP32: no recorded answers to compare with" in capsys.readouterr().out


def test_the_gpu_program_says_how_bundles_are_made(tmp_path, install: Install, capsys):
    install("10.3.0")

    assert gpu.main([str(tmp_path)]) == 2
    assert f"gpusq bench --export {tmp_path}" in capsys.readouterr().err


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
for absent in ("torch", "transformers", "pydantic", "yaml", "PIL", "tqdm", "tritonclient", "grpc",
               "onnxruntime", "openvino", "scipy", "jinja2"):
    sys.modules[absent] = None
from tests.standin.gpu import Gpu
from tests.standin.standin import StandIn
with StandIn("10.3.0", Gpu(name="H100", capability=(9, 0))).installed():
    {run}
"""


@pytest.mark.parametrize(
    "run",
    [
        "from compress.__main__ import main; sys.exit(main({gpusq!r}))",
        "from benchmarks.gpu import main; sys.exit(main({program!r}))",
    ],
    ids=["gpusq bench", "benchmarks.gpu"],
)
def test_measuring_needs_tensorrt_numpy_and_onnx_alone(bundle, tmp_path, run):
    gpusq = ["bench", str(bundle), *QUICK]
    program = [str(bundle), "--out", str(tmp_path / "out"), "--batches", "1", "--calls", "2"]
    script = SCRIPT.format(root=str(ROOT), run=run.format(gpusq=gpusq, program=program))

    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT
    )

    assert ended.returncode == 0, ended.stderr
    assert "INT8 2:4 over INT8 dense" in ended.stdout
