"""The stand-in behaves as TensorRT documents it, so that tests on it mean something."""

from __future__ import annotations

import gc
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contract.engine import Engine
from contract.engine_log import kept, log_of
from tests.standin.evaluate import evaluator
from tests.standin.standin import Install, StandIn

pytest_plugins = ["tests.standin.fixtures"]


def graph(quantized: bool = False, opset: int = 17) -> onnx.ModelProto:
    """Two products over the pixels, the first with 2:4 weights."""
    sparse = np.zeros((12, 8), np.float32)
    sparse[0::4], sparse[1::4] = 0.5, -0.25
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["read", "sparse"], ["hidden"], name="fc1"),
        helper.make_node("MatMul", ["hidden", "dense"], ["scores"], name="fc2"),
    ]
    if quantized:
        nodes[2:2] = [
            helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["rounded"]),
            helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["read"]),
        ]
    else:
        nodes[2].input[0] = "flat"
    constants = {
        "sparse": sparse,
        "dense": np.ones((8, 3), np.float32),
        "scale": np.float32(2),
        "zero": np.int8(0),
    }
    made = helper.make_graph(
        nodes,
        "two products",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 2, 2, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class Build:
    """What a program does to build a plan."""

    def __init__(self, trt: Any, *flags: str, strong: bool = False) -> None:
        self.trt, self.log = trt, log_of(trt)
        self.builder = trt.Builder(self.log)
        kinds = trt.NetworkDefinitionCreationFlag.__members__
        wanted = "STRONGLY_TYPED" if strong else "EXPLICIT_BATCH"
        number = 1 << int(kinds[wanted]) if wanted in kinds else 0
        self.network = self.builder.create_network(number)
        self.config = self.builder.create_builder_config()
        self.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        for flag in flags:
            self.config.set_flag(getattr(trt.BuilderFlag, flag))

    def parsed(self, model: onnx.ModelProto, most: int = 4) -> Build:
        parser = self.trt.OnnxParser(self.network, self.log)
        assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
        profile = self.builder.create_optimization_profile()
        profile.set_shape("image", (1, 2, 2, 3), (most, 2, 2, 3), (most, 2, 2, 3))
        self.config.add_optimization_profile(profile)
        return self

    def plan(self) -> bytes | None:
        made = self.builder.build_serialized_network(self.network, self.config)
        return None if made is None else bytes(made)


def test_what_is_built_runs_and_gives_what_the_graph_gives(standin: StandIn):
    build = Build(standin.module, "SPARSE_WEIGHTS").parsed(graph())
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)

    plan = build.plan()

    assert plan is not None
    engine = Engine(plan, "model.plan")
    expected = evaluator(graph().SerializeToString())({"image": images})["scores"]
    assert engine.max_batch == 4
    assert np.array_equal(engine.run(images)["scores"], expected)
    engine.close()


def test_the_log_and_the_inspector_say_what_runs_sparse(install: Install):
    standin = install("10.3.0", picks=lambda name: name != "fc1")

    build = Build(standin.module, "SPARSE_WEIGHTS").parsed(graph())
    with kept(standin.module) as lines:
        plan = build.plan()

    assert [line for line in lines if "Sparsity" in line] == [
        "(Sparsity) Layers eligible for sparse math: fc1",
        "(Sparsity) TRT inference plan picked sparse implementation for layers:",
    ]
    runtime = standin.module.Runtime(build.log)
    inspector = runtime.deserialize_cuda_engine(plan).create_engine_inspector()
    layers = json.loads(
        inspector.get_engine_information(standin.module.LayerInformationFormat.JSON)
    )["Layers"]
    assert [(layer["Name"], layer["HasSparseWeights"]) for layer in layers] == [
        ("fc1", 1),
        ("fc2", 0),
    ]


def test_no_flag_of_precision_is_left_in_11(install: Install):
    flags = install("11.4.1").module.BuilderFlag

    assert not {"FP16", "INT8", "FP8", "BF16"} & set(flags.__members__)
    assert {"TF32", "SPARSE_WEIGHTS"} <= set(flags.__members__)


def test_8_6_has_neither_strong_types_nor_a_progress_monitor(install: Install):
    trt = install("8.6.0").module

    assert "STRONGLY_TYPED" not in trt.NetworkDefinitionCreationFlag.__members__
    assert not hasattr(trt, "IProgressMonitor")
    with pytest.raises(AttributeError):
        Build(trt).config.progress_monitor = None


@pytest.mark.parametrize(
    ("version", "flags", "strong", "said"),
    [
        ("8.6.0", (), False, "int8 is not configured"),
        ("8.6.0", ("INT8",), False, None),
        ("10.3.0", (), False, "int8 is not configured"),
        ("10.3.0", (), True, None),
        ("10.3.0", ("FP16",), True, "strongly typed network and precision flags"),
        ("11.4.1", (), True, None),
    ],
)
def test_quantised_graphs_want_the_flag_where_types_are_weak(
    install: Install, version: str, flags: tuple[str, ...], strong: bool, said: str | None
):
    build = Build(install(version).module, *flags, strong=strong).parsed(graph(quantized=True))

    with kept(build.trt) as lines:
        assert (build.plan() is None) is (said is not None)
    assert said is None or any(said in line for line in lines)


def test_a_dynamic_batch_needs_a_profile(standin: StandIn):
    build = Build(standin.module)
    parser = standin.module.OnnxParser(build.network, build.log)
    assert parser.parse(graph().SerializeToString())

    assert build.plan() is None
    assert "no optimization profile has been defined" in build.log.said[-1]


@pytest.mark.parametrize("content", [b"no graph", b""])
def test_what_is_no_graph_is_not_parsed(standin: StandIn, content: bytes):
    build = Build(standin.module)
    parser = standin.module.OnnxParser(build.network, build.log)

    assert not parser.parse(content)
    assert parser.num_errors == 1
    assert "parse" in parser.get_error(0).desc()


def test_8_6_takes_no_newer_opset_than_17(install: Install):
    build = Build(install("8.6.0").module)
    parser = build.trt.OnnxParser(build.network, build.log)

    assert not parser.parse(graph(opset=18).SerializeToString())


def test_a_timing_cache_of_another_gpu_is_not_taken(standin: StandIn):
    build = Build(standin.module).parsed(graph())
    cache = build.config.create_timing_cache(b"")
    assert build.config.set_timing_cache(cache, False)
    build.plan()
    kept = bytes(build.config.get_timing_cache().serialize())
    assert b"fc1" in kept

    standin.gpu.capability = (9, 0)
    again = Build(standin.module)

    assert not again.config.set_timing_cache(again.config.create_timing_cache(kept), False)
    assert again.config.set_timing_cache(again.config.create_timing_cache(kept), True)


def test_a_monitor_sees_the_progress_and_can_end_the_build(install: Install):
    trt = install("10.3.0").module

    class Monitor(trt.IProgressMonitor):
        def __init__(self, goes_on: bool) -> None:
            trt.IProgressMonitor.__init__(self)
            self.goes_on, self.seen = goes_on, []

        def phase_start(self, phase_name: str, *_: object) -> None:
            self.seen.append(phase_name)

        def step_complete(self, *_: object) -> bool:
            return self.goes_on

        def phase_finish(self, phase_name: str) -> None:
            self.seen.append(f"end of {phase_name}")

    for goes_on in (True, False):
        build = Build(trt).parsed(graph())
        build.config.progress_monitor = monitor = Monitor(goes_on)
        assert (build.plan() is not None) is goes_on
        assert monitor.seen == ["Building Engine", "end of Building Engine"]


def test_a_logger_that_was_never_begun_is_refused(standin: StandIn):
    class Log(standin.module.ILogger):
        def __init__(self) -> None:
            """Without that of the base class."""

    with pytest.raises(TypeError):
        standin.module.Builder(Log())


def test_the_first_logger_is_used_as_long_as_what_has_it_lives(standin: StandIn):
    first = Build(standin.module)

    class Log(standin.module.ILogger):
        def __init__(self) -> None:
            standin.module.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append(msg)

    second = Log()
    with kept(standin.module) as lines:
        runtime = standin.module.Runtime(second)
    assert "differs from one already provided" in lines[0]
    assert runtime.deserialize_cuda_engine(b"no plan") is None
    assert second.lines == []
    del first, runtime
    gc.collect()

    standin.module.Runtime(second).deserialize_cuda_engine(b"no plan")
    assert second.lines


def test_importing_it_gives_the_module_and_ends_with_the_test(install: Install):
    standin = install("11.4.1")

    import tensorrt  # noqa: PLC0415 - not there before

    assert tensorrt is standin.module
    assert tensorrt.__version__ == "11.4.1"
