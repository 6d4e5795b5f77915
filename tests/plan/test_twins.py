"""What the twins of a graph hold. What they compute of real networks is compared where torch is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compress.errors import PlanError
from compress.plan import sparsity
from compress.plan.twins import float_twin, fp8_twin, int4_twin
from compress.plan.typed import opset_of, set_opset, strongly_typed
from tests.bundles import colour_graph

IN, OUT = 128, 8


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def weights(seed=0, inner=IN):
    """Steps of INT8, 2:4 along the reduction axis: [out, in]."""
    steps = np.random.default_rng(seed).integers(-127, 128, (OUT, inner)).astype(np.int8)
    steps[:, 0::4] = steps[:, 3::4] = 0
    steps[:, 1] = 127
    return steps


def product(inner=IN):
    """A Linear as it is exported: rounded input, stored weight [out, in], a Transpose."""
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
            helper.make_node("Transpose", ["wd"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["xd", "wt"], ["y"]),
        ],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", OUT])],
        [
            constant("s", np.float32(0.5)),
            constant("z", np.int8(0)),
            constant("w", weights(inner=inner)),
            constant("ws", np.linspace(0.1, 0.2, OUT, dtype=np.float32)),
            constant("wz", np.zeros(OUT, np.int8)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def convolution(channels):
    """A convolution as it is exported, each of whose four kernels sees 2 x 2 pixels."""
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
            helper.make_node("Conv", ["xd", "wd"], ["y"], kernel_shape=[2, 2]),
        ],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", channels, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            constant("s", np.float32(0.5)),
            constant("z", np.int8(0)),
            constant("w", np.ones((4, channels, 2, 2), np.int8)),
            constant("ws", np.full(4, 0.25, np.float32)),
            constant("wz", np.zeros(4, np.int8)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def operators(model):
    return [node.op_type for node in model.graph.node]


def stored(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def answers(model, x):
    again = onnx.ModelProto()
    again.CopyFrom(model)
    # The evaluator has no DequantizeLinear of opset 18; that of 19 is the same.
    set_opset(again, max(opset_of(model), 19))
    return ReferenceEvaluator(again).run(None, {"x": x})


def answer(model, x):
    return answers(model, x)[0]


# On the grid of the input's quantiser, of step 0.5, so that INT8 rounds nothing away.
ON_GRID = (np.random.default_rng(1).integers(-127, 128, (3, IN)) * 0.5).astype(np.float32)


def test_the_float_twin_has_no_quantiser_and_the_same_weights():
    model = product()
    before = model.SerializeToString()

    twin = float_twin(model)

    assert operators(twin) == ["Transpose", "MatMul"]
    expected = weights() * np.linspace(0.1, 0.2, OUT, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(stored(twin)["w"], expected)
    assert set(stored(twin)) == {"w"}
    np.testing.assert_allclose(answer(twin, ON_GRID), answer(model, ON_GRID), rtol=1e-5)
    assert model.SerializeToString() == before


def test_the_float_twin_rounds_no_input():
    between = ON_GRID + np.float32(0.24)

    apart = answer(float_twin(product()), between) - answer(product(), between)

    expected = 0.24 * stored(float_twin(product()))["w"].sum(axis=1)
    np.testing.assert_allclose(apart, np.broadcast_to(expected, apart.shape), atol=1e-2)


def test_a_weight_in_blocks_is_dequantised_block_by_block():
    model = int4_twin(product())

    twin = float_twin(model)

    assert operators(twin) == ["Transpose", "MatMul"]
    np.testing.assert_allclose(answer(twin, ON_GRID), answer(model, ON_GRID), rtol=1e-5, atol=1e-3)


def test_a_weight_read_by_two_quantisers_becomes_two_weights():
    model = product()
    model.graph.initializer.append(constant("other", np.full(OUT, 0.5, np.float32)))
    model.graph.node.insert(
        3, helper.make_node("DequantizeLinear", ["w", "other", "wz"], ["od"], axis=0)
    )
    model.graph.node.append(helper.make_node("Transpose", ["od"], ["ot"], perm=[1, 0]))
    model.graph.node.append(helper.make_node("MatMul", ["xd", "ot"], ["second"]))
    model.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, None))

    found, expected = answers(float_twin(model), ON_GRID), answers(model, ON_GRID)

    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-2)


def test_an_output_that_a_quantiser_made_keeps_its_name():
    model = product()
    model.graph.output.append(helper.make_tensor_value_info("xd", TensorProto.FLOAT, None))

    twin = float_twin(model)

    _, rounded = answers(twin, ON_GRID)
    np.testing.assert_array_equal(rounded, ON_GRID)


def test_the_fp8_twin_has_the_range_and_the_zeros_of_int8():
    twin = fp8_twin(product())

    assert opset_of(twin) == 19
    assert operators(twin) == operators(product())
    found = stored(twin)
    kinds = {entry.name: entry.data_type for entry in twin.graph.initializer}
    assert kinds["w"] == TensorProto.FLOAT8E4M3FN
    assert [kinds[node.input[2]] for node in twin.graph.node if "Linear" in node.op_type] == [
        TensorProto.FLOAT8E4M3FN
    ] * 3
    # 127 steps of 0.5 become 448 of the twin.
    assert found["s.fp8"] * 448 == pytest.approx(127 * 0.5)
    values = found["w"].astype(np.float32)
    assert values.max() == 448
    np.testing.assert_array_equal(values == 0, weights() == 0)
    # Three bits of mantissa: a sixteenth of each value at most.
    np.testing.assert_allclose(values * 127 / 448, weights(), rtol=1 / 16)


def test_the_fp8_twin_computes_what_int8_computes_within_its_mantissa():
    expected = answer(product(), ON_GRID)

    apart = np.abs(answer(fp8_twin(product()), ON_GRID) - expected)

    # Each factor is a thirty-second off on average at most, and errors of both signs cancel.
    size = np.abs(ON_GRID) @ np.abs(stored(float_twin(product()))["w"]).T
    assert 0 < apart.max() < (size / 32).max()


def test_a_convolution_of_a_picture_stays_float_in_fp8_and_one_of_channels_does_not():
    assert operators(fp8_twin(convolution(16))) == operators(convolution(16))
    with pytest.raises(PlanError, match=r"one with Q/DQ in INT8, this one has none"):
        fp8_twin(convolution(3))


def test_a_network_without_int8_has_no_fp8_twin():
    with pytest.raises(PlanError, match="compressed to INT8"):
        fp8_twin(colour_graph())
    with pytest.raises(PlanError, match=r"of another format.*compressed to INT8"):
        fp8_twin(fp8_twin(product()))


@pytest.mark.parametrize(("inner", "block"), [(256, 128), (192, 64)])
def test_int4_weights_come_in_the_largest_block_that_fits(inner, block):
    twin = int4_twin(product(inner))

    assert opset_of(twin) == 21
    assert operators(twin) == ["DequantizeLinear", "Transpose", "MatMul"]
    found = stored(twin)
    assert found["w.int4.scale"].shape == (OUT, inner // block)
    steps = found["w.int4"].astype(np.float32)
    assert steps.min() >= -7
    assert steps.max() == 7
    # No weight is further from its step than half of it.
    scale = found["w.int4.scale"].repeat(block, axis=1)
    wide = stored(float_twin(product(inner)))["w"]
    assert (np.abs(steps * scale - wide) <= scale * 0.5001).all()


def test_int4_weights_stay_sparse_along_the_reduction_axis():
    twin = int4_twin(product())

    assert sparsity.check(twin, "2:4", "here") == ["w.int4"]


def test_a_weight_that_a_product_reads_as_it_lies_has_its_blocks_down_the_first_axis():
    model = product()
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("MatMul", ["x", "v"], ["y"]))
    values = np.random.default_rng(0).normal(size=(IN, OUT)).astype(np.float32)
    model.graph.initializer.append(constant("v", values))

    twin = int4_twin(model)

    assert stored(twin)["v.int4.scale"].shape == (1, OUT)
    size = np.abs(ON_GRID) @ np.abs(values)
    assert np.abs(answer(twin, ON_GRID) - answer(model, ON_GRID)).max() < (size / 7).max()


def test_a_network_whose_sizes_no_block_divides_has_no_int4_twin():
    with pytest.raises(PlanError, match=r"multiple of 64.*Compress it to INT8"):
        int4_twin(product(96))


def test_an_operator_that_changes_with_the_opset_is_refused():
    model = product()
    model.graph.node.append(
        helper.make_node("GridSample", ["y4", "grid"], ["sampled"], mode="bilinear")
    )
    model.graph.initializer.extend(
        [
            constant("y4", np.zeros((1, 1, 2, 2), np.float32)),
            constant("grid", np.zeros((1, 1, 1, 2), np.float32)),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("sampled", TensorProto.FLOAT, None))

    with pytest.raises(PlanError, match="GridSample is another operator in opset 21"):
        int4_twin(model)


@pytest.mark.parametrize("derive", [float_twin, fp8_twin, int4_twin])
def test_every_twin_has_a_strongly_typed_form(derive):
    typed = strongly_typed(derive(product()))

    onnx.checker.check_model(typed, full_check=True)
