"""A network that takes whole pictures and computes nothing: what is left is the serving."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.plan.repository import Backend, publish
from contract import labels
from contract.card import ModelCard, Precision
from contract.preprocess import Preprocessing

NAME = "empty"
# A classifier of ImageNet's kind, framed as DeiT is.
FORM = Preprocessing(224, 224, 248)
_LABELS = "imagenet-1k"


def write(repository: Path, backend: Backend = "onnxruntime") -> None:
    """Put it into a repository of its own.

    Args:
        repository: The folder of models.
        backend: What a Triton runs it with.
    """
    card = ModelCard(
        task="classify",
        labels=labels.load(_LABELS),
        preprocessing=FORM,
        precision=Precision("float32", "float32", "dense"),
        accuracy=(),
        description="Computes nothing.",
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        onnx.save(_graph(len(card.labels)), bundle / "model.onnx")
        (bundle / "card.json").write_text(card.to_json(), encoding="utf-8")
        publish(bundle, repository, NAME, backend=backend)


def _graph(classes: int) -> onnx.ModelProto:
    """Return the graph: the same scores for every picture of the batch."""
    scores = np.full((1, classes), 0.1 / classes, np.float32)
    scores[0, :5] = (0.5, 0.2, 0.1, 0.06, 0.04)
    image: list[str | int | None] = ["b", FORM.height, FORM.width, 3]
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
            helper.make_node("Concat", ["batch", "one"], ["shape"], axis=0),
            helper.make_node("Expand", ["constant", "shape"], ["scores"]),
        ],
        "empty",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", classes])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(scores, "constant"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
