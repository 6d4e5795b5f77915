"""Formats compared on a stand-in for TensorRT (tests/standin), whose times mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import PublishError
from compress.plan import bench, recorded, twin_answers
from compress.plan.bench_network import Settings
from contract import labels
from contract.card import ModelCard, Precision
from contract.errors import EngineError
from contract.preprocess import Preprocessing
from tests.bundles import write_bundle
from tests.standin.gpu import NO_DEVICE, Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]

CLASSES, HIDDEN, SIDE_PX = 16, 128, 8
H100 = Gpu(name="H100", capability=(9, 0))
A100 = Gpu(name="A100", capability=(8, 0))
QUICK = Settings(batches=(1, 2, 4), calls=4, energy_s=0)
ALL = ["FP32", "TF32", "FP16", "INT4 weights", "FP8", "INT8 dense", "INT8 2:4"]


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def linear(name, source, made, inner, outer):
    """A Linear in INT8, its weight 2:4 sparse."""
    rng = np.random.default_rng(inner)
    steps = rng.integers(-127, 128, (outer, inner)).astype(np.int8)
    steps[:, 0::4] = steps[:, 2::4] = 0
    nodes = [
        helper.make_node("QuantizeLinear", [source, f"{name}.s", "z"], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", "z"], [f"{name}.x"]),
        helper.make_node("DequantizeLinear", [name, f"{name}.ws", f"{name}.wz"], [f"{name}.w"]),
        helper.make_node("Transpose", [f"{name}.w"], [f"{name}.t"], perm=[1, 0]),
        helper.make_node("MatMul", [f"{name}.x", f"{name}.t"], [made], name=f"{name}.product"),
    ]
    nodes[2].attribute.append(helper.make_attribute("axis", 0))
    return nodes, [
        constant(name, steps),
        constant(f"{name}.s", np.float32(4 / 127)),
        constant(f"{name}.ws", np.full(outer, 3 / 127 / inner**0.5, np.float32)),
        constant(f"{name}.wz", np.zeros(outer, np.int8)),
    ]


def network():
    first, stored = linear("first", "flat", "hidden", SIDE_PX * SIDE_PX * 3, HIDDEN)
    second, others = linear("second", "active", "logits", HIDDEN, CLASSES)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "by"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
        *first,
        helper.make_node("Relu", ["hidden"], ["active"]),
        *second,
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    size = ["b", SIDE_PX, SIDE_PX, 3]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", CLASSES])],
        [
            constant("z", np.int8(0)),
            constant("by", np.float32(2 / 255)),
            constant("one", np.float32(1)),
            *stored,
            *others,
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    card = ModelCard(
        task="classify",
        labels=labels.inline([str(index) for index in range(CLASSES)]),
        preprocessing=Preprocessing(SIDE_PX, SIDE_PX, SIDE_PX),
        precision=Precision("int8", "int8", "2:4"),
    )
    folder = write_bundle(tmp_path / "deit-tiny", network(), card)
    shape = (6, SIDE_PX, SIDE_PX, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    recorded.ask(folder / "model.onnx", pictures, "noise").save(folder)
    assert twin_answers.record(folder) == ["float", "fp8", "int4"]
    return folder


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
        ("8.6.0", H100, {"INT4 weights": "which this TensorRT does not take", "FP8": "fp8"}),
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
    again = write_bundle(tmp_path / "again", network(), bench.source(other).card)

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
