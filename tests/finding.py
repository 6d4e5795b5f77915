"""Tiny real models that detect and segment, and pictures whose answers are known.

Coloured things on black: whatever is red, green or blue alone is a thing of that class. The
detector finds one of each, with the mask in its box; the segmenter names the brightest channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from compress.plan.repository import publish
from contract import labels
from contract.card import Accuracy, ModelCard, Precision
from contract.preprocess import Preprocessing
from tests import bundles

THINGS = ("red", "green", "blue")
# One above the other, whatever lies in the picture.
SCORES = (0.9, 0.6, 0.2)
FORM = Preprocessing(120, 160, interpolation="bilinear", framing="letterbox")
CUT = Preprocessing(120, 160, 160, "bilinear")
CELLS = 28
_BRIGHT = 127.0

Box = tuple[int, int, int, int]


class _Graph:
    """Collects nodes; every call of :meth:`add` gives the name of what the node makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: Any, name: str | None = None, **attributes: Any) -> str:
        output = name or f"{kind}_{len(self.nodes)}"
        named = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, named, [output], **attributes))
        return output

    def sort(self, scores: str, places: int) -> tuple[str, str]:
        """Return scores in descending order, named as the contract has them, and their places."""
        inputs = [scores, self._constant(np.array([places]))]
        self.nodes.append(helper.make_node("TopK", inputs, ["scores", "places"]))
        return "scores", "places"

    def model(
        self, size: Preprocessing, outputs: Sequence[tuple[str, int, list[int]]]
    ) -> onnx.ModelProto:
        image = helper.make_tensor_value_info(
            "image", TensorProto.UINT8, ["b", size.height, size.width, 3]
        )
        described = [
            helper.make_tensor_value_info(name, element, ["b", *dims])
            for name, element, dims in outputs
        ]
        graph = helper.make_graph(self.nodes, "scene", [image], described, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def segmenter(size: Preprocessing = FORM) -> onnx.ModelProto:
    """Return a graph that names the brightest channel of each pixel; of equal ones the first."""
    graph = _Graph()
    pixels = graph.add("Cast", "image", to=TensorProto.FLOAT)
    brightest = graph.add("ArgMax", pixels, axis=3, keepdims=0)
    # uint8 only through float32, as the contract has it.
    as_float = graph.add("Cast", brightest, to=TensorProto.FLOAT)
    graph.add("Cast", as_float, to=TensorProto.UINT8, name="class_map")
    return graph.model(size, [("class_map", TensorProto.UINT8, [size.height, size.width])])


def detector(size: Preprocessing = FORM, masks: bool = True) -> onnx.ModelProto:
    """Return a graph that finds what is of one colour alone, and leaves a fourth place unused."""
    graph, places = _Graph(), len(THINGS) + 1
    alone = _alone(graph)
    across, down = (graph.add("ReduceMax", alone, [axis], keepdims=0) for axis in (2, 3))
    present = graph.add("ReduceMax", across, [2], keepdims=0)
    scores, order = graph.sort(graph.add("Mul", present, np.array([[*SCORES, 0.0]])), places)
    at = graph.add("Unsqueeze", order, [2])
    graph.add("Cast", order, to=TensorProto.INT32, name="labels")
    (left, right), (top, bottom) = (_ends(graph, a, n) for a, n in
                                    ((across, size.width), (down, size.height)))  # fmt: skip
    corners = [graph.add("Unsqueeze", corner, [2]) for corner in (left, top, right, bottom)]
    joined = graph.add("Concat", *corners, axis=2)
    boxes = graph.add("GatherND", joined, at, batch_dims=1, name="boxes")
    outputs: list[tuple[str, int, list[int]]] = [
        (scores, TensorProto.FLOAT, [places]),
        ("labels", TensorProto.INT32, [places]),
        (boxes, TensorProto.FLOAT, [places, 4]),
    ]
    if masks:
        found = graph.add("GatherND", alone, at, batch_dims=1)
        rows = _hats(graph, boxes, (1, 3), size.height)
        columns = _hats(graph, boxes, (0, 2), size.width)
        inside = graph.add("MatMul", rows, found)
        turned = graph.add("Transpose", columns, perm=[0, 1, 3, 2])
        graph.add("MatMul", inside, turned, name="masks")
        outputs.append(("masks", TensorProto.FLOAT, [places, CELLS, CELLS]))
    return graph.model(size, outputs)


def _alone(graph: _Graph) -> str:
    """Return [b, 4, h, w], 1 where only this channel is bright; the fourth is 0."""
    pixels = graph.add("Cast", "image", to=TensorProto.FLOAT)
    bright = graph.add("Cast", graph.add("Greater", pixels, _BRIGHT), to=TensorProto.FLOAT)
    count = graph.add("ReduceSum", bright, [3], keepdims=1)
    one = graph.add("Cast", graph.add("Less", count, 1.5), to=TensorProto.FLOAT)
    alone = graph.add("Transpose", graph.add("Mul", bright, one), perm=[0, 3, 1, 2])
    return graph.add("Pad", alone, np.array([0, 0, 0, 0, 0, 1, 0, 0]))


def _ends(graph: _Graph, occupied: str, length: int) -> tuple[str, str]:
    """Return where something begins and ends, 0 to 1."""
    ends = graph.add("ReduceMax", graph.add("Mul", occupied, np.arange(1.0, length + 1)), [2],
                     keepdims=0)  # fmt: skip
    left_over = graph.add("ReduceMax", graph.add("Mul", occupied, np.arange(float(length), 0, -1)),
                          [2], keepdims=0)  # fmt: skip
    begins = graph.add("Sub", float(length), left_over)
    return graph.add("Div", begins, float(length)), graph.add("Div", ends, float(length))


def _hats(graph: _Graph, boxes: str, sides: tuple[int, int], length: int) -> str:
    """Return [b, q, m, length]: how much each pixel counts in each cell of a box."""
    begin, end = (graph.add("Gather", boxes, np.array([side]), axis=2) for side in sides)
    steps = np.arange(0.5, CELLS) / CELLS
    along = graph.add("Mul", graph.add("Sub", end, begin), steps)
    centres = graph.add("Mul", graph.add("Add", begin, along), float(length))
    apart = graph.add("Sub", graph.add("Unsqueeze", centres, [3]), np.arange(0.5, length))
    return graph.add("Relu", graph.add("Sub", 1.0, graph.add("Abs", apart)))


def card(task: str, size: Preprocessing = FORM) -> ModelCard:
    """Return the card of one of the two."""
    metric = {"detect": "mask_ap", "segment": "mean_iou"}[task]
    return ModelCard(
        task=task,
        labels=labels.inline(list(THINGS)),
        preprocessing=size,
        precision=Precision("float32", "float32", "dense"),
        accuracy=(Accuracy("ten painted scenes", 10, 1.0, None, 0.5, metric),),
        description="Knows red, green and blue things.",
    )


def write_repository(folder: Path) -> Path:
    """Publish a model of each task, and one each without masks and with a cut."""
    models = {
        "colours": (bundles.colour_graph(), bundles.colour_card()),
        "shapes": (detector(), card("detect")),
        "shapes-boxes": (detector(masks=False), card("detect")),
        "shapes-cut": (detector(CUT), card("detect", CUT)),
        "areas": (segmenter(), card("segment")),
        "areas-cut": (segmenter(CUT), card("segment", CUT)),
    }
    for name, (graph, of_graph) in models.items():
        bundle = bundles.write_bundle(folder / "bundles" / name, graph, of_graph)
        publish(bundle, folder / "repository", name)
    return folder / "repository"


def scene(size_px: tuple[int, int], things: dict[str, Box], shape: str = "ellipse") -> Image.Image:
    """Paint an ellipse or a rectangle into each box, on black."""
    image = Image.new("RGB", size_px)
    paint = getattr(ImageDraw.Draw(image), shape)
    for thing, (left, top, right, bottom) in things.items():
        colour = tuple(255 * (thing == name) for name in THINGS)
        paint((left, top, right - 1, bottom - 1), fill=colour)
    return image
