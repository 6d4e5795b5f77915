"""Formats compared on a stand-in for TensorRT (tests/standin), whose times mean nothing."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from compress.errors import PlanError, PublishError
from compress.plan import bench, recorded
from compress.plan.bench_network import Settings
from contract.errors import EngineError
from tests import sparse_bundle
from tests.standin.gpu import NO_DEVICE, Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]

H100 = Gpu(name="H100", capability=(9, 0))
A100 = Gpu(name="A100", capability=(8, 0))
QUICK = Settings(batches=(1, 2, 4), calls=4, energy_s=0)
ALL = ["FP32", "TF32", "FP16", "INT4 weights", "FP8", "INT8 dense", "INT8 2:4"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sparse_bundle.write(tmp_path / "deit-tiny")


def measured(bundle, settings=QUICK):
    (table,) = bench.run([bundle], settings)
    return table, {row.contender: row for row in table.rows}


@pytest.mark.parametrize("tensorrt", ["10.3.0", "11.4.1"])
def test_every_format_is_measured_where_gpu_and_tensorrt_have_it(
    bundle, install: Install, tensorrt
):
    install(tensorrt, H100)

    table, rows = measured(bundle)

    assert list(rows) == ALL
    for row in rows.values():
        assert row.reason == ""
        assert 0 < row.p50_ms <= row.p99_ms
        assert set(row.images_per_s) == {1, 2, 4}
        assert row.agrees is True
    assert rows["INT8 2:4"].sparse == {"batch 1": (2, 2), "large batches": (2, 2)}
    assert rows["INT8 dense"].sparse == {}
    assert table.machine.startswith("H100 (9.0), driver ")
    assert f"TensorRT {tensorrt}" in table.machine


@pytest.mark.parametrize(
    ("tensorrt", "gpu", "missing"),
    [
        (
            "8.6.0",
            H100,
            {
                "INT4 weights": "this twin is in int4, which this TensorRT does not take",
                "FP8": "fp8",
            },
        ),
        ("10.3.0", A100, {"FP8": "needs compute capability 8.9"}),
    ],
)
def test_a_format_that_is_not_there_has_its_reason_in_its_row(
    bundle, install: Install, tensorrt, gpu, missing
):
    install(tensorrt, gpu)

    table, rows = measured(bundle)

    assert {name for name, row in rows.items() if row.reason} == set(missing)
    for name, reason in missing.items():
        assert reason in rows[name].reason
        assert rows[name].p50_ms is None
        assert f"{name}: {rows[name].reason}" in table.text()
        assert f"{name}: {rows[name].reason}" in table.markdown()


def test_flags_differ_as_the_contenders_do(bundle, install: Install):
    install("8.6.0", A100)

    _, rows = measured(bundle)

    flags = {
        name: set(row.built["batch 1"]["flags"]) for name, row in rows.items() if not row.reason
    }
    assert flags == {
        "FP32": set(),
        "TF32": {"TF32"},
        "FP16": {"FP16"},
        "INT8 dense": {"FP16", "INT8"},
        "INT8 2:4": {"FP16", "INT8", "SPARSE_WEIGHTS"},
    }


def test_all_plans_of_a_network_share_one_timing_cache(bundle, install: Install, tmp_path):
    install("10.3.0", H100)

    measured(bundle, Settings(batches=(1,), calls=2, energy_s=0, timing_caches=tmp_path / "caches"))

    assert [path.name for path in (tmp_path / "caches").iterdir()] == [
        "deit-tiny-sm90-10.3.0.timing"
    ]


def test_a_plan_that_answers_otherwise_is_marked(bundle, install: Install):
    install("10.3.0", H100)
    found = recorded.read(bundle)
    turned = {name: values[:, ::-1] for name, values in found.answers.items()}
    recorded.Recorded(found.pictures, turned, found.source).save(bundle)

    table, rows = measured(bundle)

    wrong = {name for name, row in rows.items() if not row.agrees}
    assert wrong == {"INT8 dense", "INT8 2:4"}
    (line,) = [line for line in table.text().splitlines() if line.startswith("INT8 2:4  ")]
    assert line.endswith("!")


def test_without_recorded_answers_nothing_is_said_of_them(bundle, install: Install):
    install("10.3.0", H100)
    (bundle / recorded.FILE).unlink()

    table, rows = measured(bundle)

    assert {row.agrees for row in rows.values()} == {None}
    assert "differs" not in table.text().splitlines()[3]


def test_a_broken_bundle_is_found_before_anything_is_built(bundle, install: Install, tmp_path):
    built = []
    install("10.3.0", H100, building=lambda: built.append(1))

    with pytest.raises(PublishError, match="expected a bundle"):
        list(bench.run([bundle, tmp_path / "none"], QUICK))

    assert built == []


def test_the_table_grows_network_by_network(bundle, install: Install, tmp_path):
    install("10.3.0", H100)
    other = bundle.rename(tmp_path / "other")
    again = sparse_bundle.write(tmp_path / "again")

    tables = list(bench.run([other, again], QUICK))

    assert [table.networks() for table in tables] == [("other",), ("other", "again")]


def test_a_machine_without_a_gpu_is_named(bundle, install: Install):
    install("10.3.0", Gpu(status=NO_DEVICE))

    with pytest.raises(EngineError):
        list(bench.run([bundle], QUICK))


def test_the_json_has_every_ratio(bundle, install: Install):
    install("10.3.0", H100)

    table, rows = measured(bundle)

    (one,) = [row for row in json.loads(table.json())["rows"] if row["contender"] == "INT8 2:4"]
    assert set(one["ratios"]) == {"FP32", "TF32", "FP16", "INT8 dense"}
    expected = rows["FP32"].p50_ms / rows["INT8 2:4"].p50_ms
    assert one["ratios"]["FP32"]["latency"] == pytest.approx(expected)
    assert one["built"]["batch 1"]["layers"]["picked"] == ["first.product", "second.product"]


def test_what_does_not_fit_into_memory_is_measured_at_half_the_batch(bundle, install: Install):
    # A plan takes 256 bytes a picture of its largest batch: seven of batch 4 would be 7,168.
    install("10.3.0", Gpu(name="H100", capability=(9, 0), memory_bytes=5000))

    _, rows = measured(bundle)

    assert set(rows["INT8 2:4"].images_per_s) == {1, 2, 4}
    assert set(rows["FP16"].images_per_s) == {1, 2}
    assert rows["FP32"].p50_ms > 0
    assert rows["FP32"].images_per_s == {}
    assert rows["FP32"].failed
    assert "cudaMalloc" in rows["FP32"].reason


def test_energy_is_that_of_a_thousand_images_at_the_best_batch(
    bundle, install: Install, monkeypatch, tmp_path
):
    install("10.3.0", H100)
    counter = itertools.count(0, 7_000)
    library = ModuleType("pynvml")
    library.NVMLError = RuntimeError
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByIndex = lambda index: index
    library.nvmlDeviceGetTotalEnergyConsumption = lambda _device: next(counter)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("PATH", str(tmp_path))

    table, rows = measured(bundle, replace(QUICK, energy_s=1e-9))

    # One call, in which the counter goes up by 7 J.
    for row in rows.values():
        assert row.joules == pytest.approx(7 / row.best_batch * 1000)
    assert "the whole board's counter, by NVML" in table.text()


def test_two_bundles_of_one_name_are_refused(bundle, install: Install):
    install("10.3.0", H100)

    with pytest.raises(PlanError, match=r"two are called 'deit-tiny'\. Rename"):
        list(bench.run([bundle, bundle], QUICK))
