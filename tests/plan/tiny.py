"""A real network of a few hundred bytes and its card, with a knob for each thing to get wrong."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contract import labels
from contract.card import Accuracy, ModelCard, Precision
from contract.preprocess import Preprocessing

NAMES = ["red", "green", "blue"]


def card(*, classes: list[str] = NAMES, side_px: int = 4) -> ModelCard:
    return ModelCard(
        task="classify",
        labels=labels.inline(classes),
        preprocessing=Preprocessing(side_px, side_px, side_px),
        precision=Precision("int8", "int8", "2:4"),
        accuracy=(Accuracy("made up", 8, 0.75, None, 0.5),),
        provenance={"teacher": "none", "licence": "Apache-2.0"},
        description="Names the strongest colour, für Tests.",
    )


def graph(
    *,
    classes: int = 3,
    side_px: int = 4,
    batch: str | int = "b",
    gain: float = 4.0,
    opset: int = 18,
    element: int = TensorProto.UINT8,
) -> onnx.ModelProto:
    """Softmax over the mean of each colour channel: bright red scores highest on class 0."""
    weights = np.zeros((3, classes), np.float32)
    np.fill_diagonal(weights, gain)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "white"], ["scaled"]),
        helper.make_node("GlobalAveragePool", ["channels_first"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    nodes.insert(
        2, helper.make_node("Transpose", ["scaled"], ["channels_first"], perm=[0, 3, 1, 2])
    )
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", element, [batch, side_px, side_px, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, classes])],
        [
            numpy_helper.from_array(np.array(255.0, np.float32), "white"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def write_bundle(
    folder: Path, model: onnx.ModelProto | None = None, model_card: ModelCard | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model or graph(), folder / "model.onnx")
    (folder / "card.json").write_text((model_card or card()).to_json(), encoding="utf-8")
    return folder
