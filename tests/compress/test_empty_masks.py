"""What masks nothing is not computed; what masks something is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import empty_masks
from tests.compress import graphs, tiny
from tests.compress.test_typed_parity import deit_graph


def masked(kept):
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Expand", ["kept", "shape"], ["everywhere"]),
            helper.make_node("Where", ["everywhere", "zero", "never"], ["mask"]),
            helper.make_node("Add", ["x", "mask"], ["sum"]),
            helper.make_node("Softmax", ["sum"], ["y"]),
        ],
        "masked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3])],
        [
            numpy_helper.from_array(np.array([kept]), "kept"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(-1e9), "never"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ([True, True, True], ["Softmax"]),
        ([True, False, True], ["Shape", "Expand", "Where", "Add", "Softmax"]),
    ],
)
def test_only_a_mask_that_is_zero_everywhere_goes(kept, left):
    model = masked(kept)

    empty_masks.drop(model)

    assert [node.op_type for node in model.graph.node] == left
    onnx.checker.check_model(model)


def test_an_exported_deit_adds_no_mask_to_its_attention(tmp_path):
    path = tmp_path / "model.onnx"
    images = tiny.pictures(2, side_px=deit_graph(path))

    operators = {node.op_type for node in onnx.load(path).graph.node}

    assert "Where" not in operators
    assert graphs.run(path, images)["scores"].shape[0] == 2
