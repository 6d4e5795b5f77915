"""A plan is built, checked and installed on a stand-in for TensorRT: see tests/standin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.errors import PlanError
from compress.plan import planning, recorded
from compress.plan.build import Options
from compress.plan.planning import Order
from compress.plan.repository import publish
from tests import sparse_bundle
from tests.bundles import colour_card, colour_graph, write_bundle
from tests.plan import planned
from tests.plan.planned import config_of, ordered, plans_of
from tests.standin import plan as standin_plan
from tests.standin.gpu import Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return planned.write(tmp_path / "colours")


@pytest.mark.parametrize("tensorrt", ["8.5.2", "8.6.1", "10.3.0", "11.4.1"])
@pytest.mark.parametrize("body", ["float16", "tf32", "float32"])
def test_a_plan_is_built_checked_and_installed(bundle, install: Install, tensorrt, body):
    install(tensorrt, Gpu(name="H100", capability=(9, 0)))

    version, checked = planning.plan(
        ordered(bundle, options=Options(body=body, max_batch=4, best_batch=2))
    )

    assert version == bundle.parent / "repository" / "colours" / "1"
    assert checked.parity.agreement == 1
    files = sorted(path.name for path in version.iterdir())
    assert files == ["model.onnx", "model.sm90.json", "model.sm90.plan"]
    config = config_of(version)
    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    assert config.default_model_filename == "model.sm90.plan"
    assert dict(config.cc_model_filenames) == {"9.0": "model.sm90.plan"}
    assert [entry.batch_size for entry in config.model_warmup] == [1, 2, 3, 4]
    card = plans_of(version)["model.sm90.plan"]
    assert (card.tensorrt, card.capability, card.gpu, card.max_batch) == (
        tensorrt,
        "9.0",
        "H100",
        4,
    )
    assert ("TF32" in card.flags) is (body == "tf32")
    assert ("FP16" in card.flags) is (body == "float16" and tensorrt.startswith("8"))
    report = json.loads((version / "model.sm90.json").read_text())
    assert report["parity"]["agreement"] == 1
    assert set(report["latency_ms"]) == {"1", "2"}
    assert set(report["layers"]) == {"eligible", "picked", "int8", "fell_back"}


def test_a_plan_for_another_gpu_joins_those_that_are_there(bundle, install: Install):
    install("10.3.0", Gpu(name="A100", capability=(8, 0)))
    first, _ = planning.plan(ordered(bundle, options=Options(max_batch=4, best_batch=4)))
    install("10.3.0", Gpu(name="H100", capability=(9, 0)))

    second, _ = planning.plan(ordered(bundle))

    assert (first.name, second.name) == ("1", "2")
    assert (second / "model.sm80.plan").read_bytes() == (first / "model.sm80.plan").read_bytes()
    assert (second / "model.sm80.json").is_file()
    config = config_of(second)
    assert dict(config.cc_model_filenames) == {"8.0": "model.sm80.plan", "9.0": "model.sm90.plan"}
    # What all of them can take.
    assert config.max_batch_size == 4
    assert plans_of(second)["model.sm80.plan"].gpu == "A100"


def test_plans_of_another_network_are_left_behind(bundle, install: Install):
    install("10.3.0", Gpu(capability=(8, 0)))
    planning.plan(ordered(bundle))
    graph = colour_graph()
    graph.doc_string = "another"
    write_bundle(bundle, graph, colour_card())
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    recorded.ask(bundle / "model.onnx", pictures, "black").save(bundle)
    install("10.3.0", Gpu(capability=(9, 0)))

    version, _ = planning.plan(ordered(bundle))

    assert set(plans_of(version)) == {"model.sm90.plan"}


def test_a_published_model_is_planned_with_pictures_of_a_folder(bundle, install: Install):
    from PIL import Image  # noqa: PLC0415 - one test makes a picture

    install("10.3.0")
    folder = bundle.parent / "pictures"
    folder.mkdir()
    Image.new("RGB", (20, 12), "red").save(folder / "red.png")
    (folder / "broken.png").write_bytes(b"no picture")
    published = publish(bundle, bundle.parent / "published", "colours").parent

    version, checked = planning.plan(
        Order(published, bundle.parent / "repository", "colours", pictures=folder)
    )

    assert checked.parity.agreement == 1
    assert (version / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_the_times_of_kernels_are_kept_for_the_next_build(bundle, install: Install):
    install("10.3.0", Gpu(capability=(9, 0)))
    planning.plan(ordered(bundle))

    kept = bundle.parent / "repository" / ".timing-sm90-10.3.0"
    assert json.loads(kept.read_bytes())["layers"]
    # A folder would be a model to Triton.
    assert kept.is_file()


def test_search_keeps_the_fastest_form_that_holds(bundle, install: Install, caplog):
    caplog.set_level("INFO")
    install("10.3.0")

    version, checked = planning.plan(ordered(bundle, search=True))

    tried = [record.message for record in caplog.records if "Parity:" in record.message]
    # The colour model has one Linear, which is no MatMul, and nothing that is rounded.
    assert len(tried) == 2
    assert sum("softmax in float16" in line for line in tried) == 1
    report = json.loads((version / "model.sm87.json").read_text())
    assert report["form"] == checked.form
    assert checked.form in {line.partition("\n")[0] for line in tried}


def test_a_form_that_is_refused_is_passed_over(bundle, install: Install):
    standin = install("10.3.0")
    build_all = standin.module.Builder.build_serialized_network
    built = []

    def first_fails(self, network, config):
        built.append(network)
        return None if len(built) == 1 else build_all(self, network, config)

    standin.module.Builder.build_serialized_network = first_fails

    _, checked = planning.plan(ordered(bundle, search=True))

    assert len(built) == 2
    assert checked.form == "matmul, rounded at gemm+add+bmm, softmax in float16"


def test_the_builder_gets_what_the_options_say(bundle, install: Install):
    install("10.3.0", Gpu(capability=(8, 0)))
    options = Options(
        body="float32", sparse=False, max_batch=8, best_batch=4, level=5, own_kernels=True
    )

    version, _ = planning.plan(ordered(bundle, options=options))

    built = (version / "model.sm80.plan").read_bytes()
    header, _ = standin_plan.unpack(built, "10.3.0", (8, 0))
    assert header["flags"] == []
    assert header["level"] == 5
    assert header["tactics"] > 0
    assert header["verbosity"] == "DETAILED"
    assert [shape[0] for shape in header["profile"]["image"]] == [1, 4, 8]
    assert header["strongly_typed"]


def test_publishing_what_is_served_keeps_its_plans(bundle, install: Install, caplog):
    install("10.3.0", Gpu(capability=(9, 0)))
    version, _ = planning.plan(ordered(bundle, instances=2))

    again = publish(bundle, bundle.parent / "repository", "colours")

    assert again == version
    assert plans_of(version)["model.sm90.plan"].capability == "9.0"
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_publishing_another_network_says_which_plans_it_lacks(bundle, install: Install, caplog):
    install("10.3.0", Gpu(capability=(9, 0)))
    planning.plan(ordered(bundle))
    graph = colour_graph()
    graph.doc_string = "another"
    write_bundle(bundle, graph, colour_card())

    publish(bundle, bundle.parent / "repository", "colours")

    (said,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert said == (
        "colours: version 1 has model.sm90.plan, version 2 has not; build again with gpusq plan"
    )


def test_a_new_plan_keeps_the_instances_that_there_were(bundle, install: Install):
    install("10.3.0", Gpu(capability=(9, 0)))
    planning.plan(ordered(bundle, instances=3))
    install("10.3.0", Gpu(capability=(8, 0)))

    version, _ = planning.plan(ordered(bundle))

    assert config_of(version).instance_group[0].count == 3


def test_a_dense_plan_is_built_where_there_are_no_sparse_kernels(tmp_path, install: Install):
    install("10.3.0", Gpu(name="T4", capability=(7, 5)))
    folder = sparse_bundle.write(tmp_path / "sparse")

    with pytest.raises(PlanError, match="or build its dense twin: --dense"):
        planning.plan(ordered(folder))
    version, _ = planning.plan(ordered(folder, options=Options(sparse=False)))

    assert (version / "model.sm75.plan").is_file()


def test_many_batch_sizes_are_warmed_up_by_powers_of_two(bundle, install: Install):
    install("10.3.0")

    version, _ = planning.plan(ordered(bundle, options=Options(max_batch=100, best_batch=8)))

    warmed = [entry.batch_size for entry in config_of(version).model_warmup]
    assert warmed == [*range(1, 17), 32, 64, 100]


def test_a_timing_cache_that_cannot_be_written_costs_no_plan(bundle, install: Install, caplog):
    install("10.3.0", Gpu(capability=(9, 0)))
    (bundle.parent / "repository" / ".timing-sm90-10.3.0").mkdir(parents=True)

    version, _ = planning.plan(ordered(bundle))

    assert (version / "model.sm90.plan").is_file()
    assert any("times of kernels are not kept" in record.message for record in caplog.records)
