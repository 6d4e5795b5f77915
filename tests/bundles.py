"""Tiny real models: the mean colour of a picture, through a softmax.

Everything a network of this project is (uint8 NHWC in, dynamic batch, probabilities out), in
graphs small enough that every answer can be worked out by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from contract import labels
from contract.card import Accuracy, ModelCard, Precision
from contract.preprocess import Preprocessing

COLOURS = ("red", "green", "blue", "black")
SIZE_PX = 8
# A wholly red picture has the logits (8, 0, 0, 1).
SHARPNESS = 8.0
BLACK_LOGIT = 1.0


def colour_scores(red: float, green: float, blue: float) -> list[float]:
    """Return what the colour model answers for a mean colour, each channel 0 to 1."""
    logits = np.array([SHARPNESS * red, SHARPNESS * green, SHARPNESS * blue, BLACK_LOGIT])
    powers = np.exp(logits - logits.max())
    return [float(p) for p in powers / powers.sum()]


def colour_graph(classes: int = len(COLOURS), size_px: int = SIZE_PX) -> onnx.ModelProto:
    """Return the graph; beyond the four colours, classes that are never likely."""
    weight = np.zeros((3, classes), np.float32)
    weight[:, :3] = np.eye(3) * SHARPNESS / 255
    bias = np.full(classes, -20, np.float32)
    bias[:4] = (0, 0, 0, BLACK_LOGIT)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        ],
        "mean-colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", size_px, size_px, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", classes])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def colour_card(names: tuple[str, ...] = COLOURS, size_px: int = SIZE_PX) -> ModelCard:
    """Return the card of the colour model."""
    return ModelCard(
        task="classify",
        labels=labels.inline(list(names)),
        preprocessing=Preprocessing(size_px, size_px, size_px),
        precision=Precision("float32", "float32", "dense"),
        accuracy=(Accuracy("a hundred plain squares", 100, 1.0, None, 1.0),),
        description="Names the colour of a picture.",
    )


def write_bundle(folder: Path, graph: onnx.ModelProto, card: ModelCard) -> Path:
    """Write model.onnx and card.json."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, folder / "model.onnx")
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    return folder


def write_model(
    repository: Path,
    name: str,
    graph: onnx.ModelProto | None = None,
    card: ModelCard | None = None,
    version: int = 1,
) -> Path:
    """Write one model, the colour model by default, into a repository."""
    card = card or colour_card()
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    onnx.save(graph or colour_graph(), folder / str(version) / "model.onnx")
    (folder / "config.pbtxt").write_text(config(name, card, version), encoding="utf-8")
    return folder


def config(name: str, card: ModelCard, version: int = 1) -> str:
    """Return the text of a model's config.pbtxt."""
    size = card.preprocessing
    message = model_config_pb2.ModelConfig(name=name, backend="onnxruntime", max_batch_size=8)
    message.version_policy.specific.versions.append(version)
    message.input.add(name="image", data_type="TYPE_UINT8", dims=[size.height, size.width, 3])
    message.output.add(name="scores", data_type="TYPE_FP32", dims=[len(card.labels)])
    for key, value in card.to_parameters().items():
        message.parameters[key].string_value = value
    return text_format.MessageToString(message)
