"""What TensorRT's builder is given, by version, on a stand-in: see tests/standin."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import PlanError
from compress.plan import sparsity, typed
from compress.plan.build import Options, build
from tests.standin import plan as standin_plan
from tests.standin.gpu import Gpu
from tests.standin.standin import Install

pytest_plugins = ["tests.standin.fixtures"]
ORIN = (8, 7)
_ORDER = ("SPARSE_WEIGHTS", "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")


def network() -> onnx.ModelProto:
    """Return a normalisation and a product in INT8 with 2:4 weights."""
    sparse = np.zeros((12, 8), np.int8)
    sparse[0::4], sparse[1::4] = 2, -1
    constants = {
        "gain": np.ones(12, np.float32),
        "flat_shape": np.array([-1, 12], np.int64),
        "weight": sparse,
        "weight_scale": np.float32(0.1),
        "scale": np.float32(0.05),
        "zero": np.int8(0),
        "dense": np.ones((8, 3), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat_shape"], ["flat"]),
        helper.make_node("LayerNormalization", ["flat", "gain"], ["normal"], name="norm"),
        helper.make_node("QuantizeLinear", ["normal", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["read"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "zero"], ["weights"]),
        helper.make_node("MatMul", ["read", "weights"], ["hidden"], name="fc1"),
        helper.make_node("MatMul", ["hidden", "dense"], ["logits"], name="fc2"),
        helper.make_node("Softmax", ["logits"], ["scores"], name="softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "two products",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 2, 2, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def parts(built: bytes, tensorrt: str) -> tuple[dict, onnx.ModelProto]:
    header, graph = standin_plan.unpack(built, tensorrt, ORIN)
    return header, onnx.load_from_string(graph)


@pytest.mark.parametrize(
    ("tensorrt", "flags", "opset", "half"),
    [
        ("8.5.2", ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "SPARSE_WEIGHTS"], 17, False),
        ("8.6.1", ["FP16", "INT8", "SPARSE_WEIGHTS"], 17, False),
        ("10.3.0", ["SPARSE_WEIGHTS"], 19, True),
        ("11.4.1", ["SPARSE_WEIGHTS"], 19, True),
    ],
)
def test_each_version_gets_its_flags_and_its_form(install: Install, tensorrt, flags, opset, half):
    install(tensorrt, Gpu(capability=ORIN))

    built = build(network(), Options())

    header, graph = parts(built.plan, tensorrt)
    assert header["flags"] == flags
    assert graph.opset_import[0].version == opset
    types = {entry.data_type for entry in graph.graph.initializer}
    assert (TensorProto.FLOAT16 in types) is half
    # The parser of TensorRT 8 takes no INT8 constants but zero points.
    integers = {e.name for e in graph.graph.initializer if e.data_type == TensorProto.INT8}
    assert integers == ({"weight", "zero"} if half else {"zero"})
    assert sparsity.check(graph, "2:4", "graph") == ["weight" if half else "weight_float"]
    assert header["strongly_typed"] is half
    assert (built.tensorrt, built.flags) == (
        tensorrt,
        tuple(flag for flag in _ORDER if flag in flags),
    )


def test_8_5_gets_layer_normalisation_in_parts_that_stay_in_float32(install: Install):
    install("8.5.2", Gpu(capability=ORIN))

    header, graph = parts(build(network(), Options()).plan, "8.5.2")

    kinds = {node.name: node.op_type for node in graph.graph.node}
    assert "LayerNormalization" not in kinds.values()
    assert header["bound"]
    assert set(header["bound"].values()) == {"FLOAT"}
    assert {kinds[name] for name in header["bound"]} >= {"ReduceMean", "Sub", "Sqrt", "Div"}
    assert not {"fc1", "fc2", "softmax"} & set(header["bound"])


@pytest.mark.parametrize("body", ["float32", "tf32"])
def test_a_float32_body_stays_the_canonical_graph(install: Install, body):
    install("10.3.0", Gpu(capability=ORIN))

    header, graph = parts(build(network(), Options(body=body)).plan, "10.3.0")

    assert [node.op_type for node in graph.graph.node] == [n.op_type for n in network().graph.node]
    assert ("TF32" in header["flags"]) is (body == "tf32")


def test_the_proof_says_what_was_eligible_and_what_was_picked(install: Install):
    install("10.3.0", Gpu(capability=ORIN), picks=lambda _: False)
    refused = build(network(), Options()).proof
    install("10.3.0", Gpu(capability=ORIN))
    picked = build(network(), Options()).proof
    dense = build(network(), Options(sparse=False)).proof

    assert (refused.eligible, refused.picked) == (("fc1",), ())
    assert refused.fell_back == {"fc1": "a dense kernel was faster"}
    assert picked.picked == ("fc1",)
    assert picked.fell_back == {}
    assert dense.picked == ()


def test_what_the_parser_says_is_in_the_refusal(install: Install):
    install("8.6.1")
    broken = network()
    broken.graph.node[-1].input[0] = "nowhere"

    with pytest.raises(PlanError, match=r"cannot be brought into the form|does not read"):
        build(broken, Options())


def test_what_the_builder_says_is_in_the_refusal(install: Install):
    standin = install("10.3.0")
    standin.module.Builder.build_serialized_network = lambda self, *_: self._logger.log(
        standin.module.ILogger.ERROR, "10: no implementation for node fc1"
    )

    with pytest.raises(PlanError, match=r"10\.3\.0 built no plan: no implementation for node"):
        build(network(), Options())


def test_a_timing_cache_of_another_gpu_is_replaced(install: Install, tmp_path):
    cache = tmp_path / "cache" / "timing"
    install("10.3.0", Gpu(capability=(9, 0)))
    build(network(), Options(), timing_cache=cache)
    of_hopper = cache.read_bytes()
    install("10.3.0", Gpu(capability=ORIN))

    build(network(), Options(), timing_cache=cache)

    assert cache.read_bytes() != of_hopper
    assert [path.name for path in cache.parent.iterdir()] == ["timing"]


def test_a_level_is_refused_where_there_is_none(install: Install):
    standin = install("8.5.2")
    del standin.module.IBuilderConfig.builder_optimization_level

    with pytest.raises(PlanError, match=r"TensorRT 8\.5\.2 has no optimisation level"):
        build(network(), Options(level=4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_batch": 4, "best_batch": 8}, r"got 8 and 4\. Change --best-batch"),
        ({"best_batch": 0}, "got 0 and 8"),
        ({"max_batch": 2000}, "largest batch <= 1024, got 8 and 2000"),
        ({"level": 6}, "from 0 to 5, got 6"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, says):
    with pytest.raises(PlanError, match=says):
        Options(**changes)


def test_the_picture_is_read_by_its_cast_alone(install: Install):
    model = network()
    shape = helper.make_node("Shape", ["image"], ["size"], name="size")
    model.graph.node.insert(0, shape)
    model.graph.output.append(helper.make_tensor_value_info("size", TensorProto.INT64, [4]))
    install("10.3.0", Gpu(capability=ORIN))

    _, graph = parts(build(model, Options(body="float32")).plan, "10.3.0")

    readers = [node.op_type for node in graph.graph.node if "image" in node.input]
    assert readers == ["Cast"]
    assert [node.op_type for node in graph.graph.node].count("Shape") == 1


@pytest.mark.parametrize(("half", "expected"), [(False, "FLOAT"), (True, "FLOAT16")])
def test_the_softmax_of_attention_may_be_in_float16(half, expected):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["weights"]),
        helper.make_node("MatMul", ["weights", "w"], ["mixed"]),
        helper.make_node("Softmax", ["mixed"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)

    changed = typed.strongly_typed(model, half_softmax=half)

    types = {entry.name: entry.type.tensor_type.elem_type for entry in changed.graph.value_info}
    assert TensorProto.DataType.Name(types["weights"]) == expected
    # What is answered stays in float32.
    last = next(node for node in changed.graph.node if node.output[0] == "scores")
    assert last.op_type == "Softmax"
    assert types[last.input[0]] == TensorProto.FLOAT
