"""Which types the forms of a graph have. What they compute is compared where a runtime is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compress.errors import PlanError
from compress.plan.typed import opset_of, strongly_typed, weakly_typed
from tests.bundles import colour_graph


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def graph(nodes, constants, outputs, opset=18, inputs=()):
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4]), *inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def quantized(scale=0.5, weight_scale=0.25):
    """A product in INT8, then a softmax."""
    return graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
            helper.make_node("MatMul", ["xd", "wd"], ["product"]),
            helper.make_node("Mul", ["product", "by"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "v"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"]),
        ],
        [
            constant("s", np.float32(scale)),
            constant("z", np.int8(0)),
            constant("w", np.eye(4, dtype=np.int8)),
            constant("ws", np.full(4, weight_scale, np.float32)),
            constant("wz", np.zeros(4, np.int8)),
            constant("by", np.float32(-np.inf)),
            constant("v", np.eye(4, dtype=np.float32)),
        ],
        {"scores": TensorProto.FLOAT},
    )


def types(model):
    found = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    return {**found, **{entry.name: entry.data_type for entry in model.graph.initializer}}


def stored(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def test_products_are_in_float16_with_scales_of_their_type_and_the_softmax_is_not():
    before = quantized()
    typed = strongly_typed(before)

    found = types(typed)
    for name in ("xd", "wd", "product", "scaled", "logits", "s_float16", "ws_float16"):
        assert found[name] == TensorProto.FLOAT16, name
    assert opset_of(typed) == 19
    (softmax,) = [node for node in typed.graph.node if node.op_type == "Softmax"]
    assert found[softmax.input[0]] == TensorProto.FLOAT
    assert typed.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert found["w"] == TensorProto.INT8
    assert before.SerializeToString() == quantized().SerializeToString()


def test_what_masks_stays_finite():
    assert stored(strongly_typed(quantized()))["by_float16"] == np.finfo(np.float16).min


def test_a_scale_too_small_for_float16_does_not_become_zero():
    assert stored(strongly_typed(quantized(weight_scale=1e-12)))["ws_float16"].min() > 0


def test_a_scale_whose_values_float16_cannot_hold_is_refused():
    with pytest.raises(PlanError, match=r"the scale s is 600, .*Calibrate again"):
        strongly_typed(quantized(scale=600.0))


def test_pictures_are_normalised_in_float32():
    typed = strongly_typed(colour_graph())

    found = types(typed)
    assert found["pixels"] == found["mean"] == TensorProto.FLOAT
    assert found["logits"] == found["weight_float16"] == TensorProto.FLOAT16
    assert typed.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


def test_an_output_that_a_product_makes_stays_in_float32():
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        [constant("w", np.eye(4, dtype=np.float32))],
        {"scores": TensorProto.FLOAT},
    )

    typed = strongly_typed(model)

    assert [node.op_type for node in typed.graph.node] == ["Cast", "MatMul", "Cast"]
    assert [entry.name for entry in typed.graph.output] == ["scores"]
    assert typed.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_places_that_become_indices_are_in_float32_up_to_the_next_product():
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["moved"]),
            helper.make_node("Add", ["moved", "centre"], ["place"]),
            helper.make_node("Floor", ["place"], ["corner"]),
            helper.make_node("Cast", ["corner"], ["index"], to=TensorProto.INT64),
            helper.make_node("Sub", ["place", "corner"], ["share"]),
            helper.make_node("MatMul", ["share", "w"], ["scores"]),
        ],
        [constant("w", np.eye(4, dtype=np.float32)), constant("centre", np.float32([100.5]))],
        {"scores": TensorProto.FLOAT, "index": TensorProto.INT64},
    )

    found = types(strongly_typed(model))

    assert found["moved"] == TensorProto.FLOAT16
    assert found["place"] == found["corner"] == found["share"] == TensorProto.FLOAT


def test_opset_17_has_the_axes_of_a_mean_as_attribute():
    weak = weakly_typed(colour_graph())

    (mean,) = [node for node in weak.graph.node if node.op_type == "ReduceMean"]
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in mean.attribute}
    assert (opset_of(weak), weak.ir_version) == (17, 8)
    assert attributes == {"axes": [1, 2], "keepdims": 0}
    assert TensorProto.FLOAT16 not in types(weak).values()


def test_opset_17_splits_into_as_many_parts_as_there_are_outputs():
    model = graph(
        [helper.make_node("Split", ["x"], ["left", "right"], axis=1, num_outputs=2)],
        [],
        {"left": TensorProto.FLOAT, "right": TensorProto.FLOAT},
    )

    weak = weakly_typed(model)

    assert [entry.name for entry in weak.graph.node[0].attribute] == ["axis"]
    assert [out.type.tensor_type.shape.dim[1].dim_value for out in weak.graph.output] == [2, 2]


def test_fp8_and_int4_are_not_taken_back_to_opset_17():
    with pytest.raises(PlanError, match="this one has 21, as FP8 and INT4 need"):
        weakly_typed(graph([], [], {"x": TensorProto.FLOAT}, opset=21))


def test_other_domains_and_float16_are_refused():
    foreign = quantized()
    foreign.opset_import.append(helper.make_opsetid("trt", 1))
    with pytest.raises(PlanError, match="found trt"):
        strongly_typed(foreign)
    with pytest.raises(PlanError, match="has float16 already"):
        strongly_typed(strongly_typed(quantized()))


def test_a_graph_with_a_branch_is_refused():
    branch = onnx.helper.make_graph(
        [], "branch", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(PlanError, match="found the If"):
        strongly_typed(graph([node], [constant("yes", np.bool_(True))], {"y": TensorProto.FLOAT}))


def test_a_mean_of_places_is_in_float32_though_it_is_a_product():
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["moved"]),
            helper.make_node("Add", ["moved", "centre"], ["place"]),
            helper.make_node("Greater", ["place", "centre"], ["beyond"]),
            helper.make_node("Cast", ["beyond"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["place"], ["turned"]),
            helper.make_node("MatMul", ["weights", "turned"], ["mean"]),
            helper.make_node("MatMul", ["mean", "mean"], ["y"]),
        ],
        [constant("w", np.eye(4, dtype=np.float32)), constant("centre", np.float32(0.5))],
        {"y": TensorProto.FLOAT},
    )

    found = types(strongly_typed(model))

    assert found["mean"] == found["weights"] == TensorProto.FLOAT
    assert found["w_float16"] == TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("part", "expected"), [({"start": 1}, [4]), ({"end": 1}, [2]), ({}, [2, 4])]
)
def test_a_part_of_a_shape_is_sliced_out_of_the_whole_in_opset_17(part, expected):
    model = graph(
        [helper.make_node("Shape", ["x"], ["shape"], **part)], [], {"shape": TensorProto.INT64}
    )

    weak = weakly_typed(model)

    assert not any(node.attribute for node in weak.graph.node)
    found = ReferenceEvaluator(weak).run(None, {"x": np.zeros((2, 4), np.float32)})
    assert found[0].tolist() == expected
