"""Export Mask R-CNN on Swin at full size, with random weights, and compare the graph with torch.

    python -m benchmarks.full_size_regions mask
    python -m benchmarks.full_size_regions cascade --int8

Answers are compared by pairing: random weights make near ties, whose order two correct
implementations decide differently. Each object of torch is paired with the box of its class in the
graph's answer that overlaps it most; pairs that overlap by 0.9 are the same object.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino
import torch
from torch import Tensor

from compress.calibrate import calibrate
from compress.evaluate import Answers, onnx_asked, torch_asked
from compress.export import write_graph
from compress.networks import FAMILIES
from compress.networks.network import Network
from compress.pairing import overlaps
from compress.quantize import insert_quantizers
from contract.preprocess import Preprocessing

HEIGHT_PX, WIDTH_PX = 800, 1216
# As the Swin authors trained them.
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mask": ("mask_rcnn", {}),
    "cascade": (
        "cascade_mask_rcnn",
        {"class_agnostic": False, "box_convs": 4, "box_linears": 1, "box_norm": True},
    ),
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SAME = 0.9
# Of logits from place to place.
_LOGIT_SPREAD = 2.5
_DATA_DEPENDENT = ("If", "Loop", "Scan", "NonZero", "NonMaxSuppression", "GridSample")


def main() -> None:
    """Print what exporting took and how far the graph is from torch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=sorted(_NETWORKS))
    parser.add_argument("--int8", action="store_true", help="quantise every layer")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pictures = _pictures(1)
    network = _network(arguments.network, pictures, arguments.int8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        started = time.process_time()
        write_graph(network, Preprocessing(HEIGHT_PX, WIDTH_PX, framing="letterbox"), path)
        seconds = time.process_time() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        operators = Counter(node.op_type for node in onnx.load(path).graph.node)
        weights = sum(one.numel() for one in network.parameters())
        print(f"{arguments.network}{' int8' * arguments.int8}, {HEIGHT_PX} x {WIDTH_PX}:")
        print(
            f"  {weights / 1e6:.1f} M weights, {operators.total()} nodes, "
            f"{seconds:.0f} s of one core"
        )
        print(f"  peak memory {memory:.1f} GiB, file {path.stat().st_size / 2**20:.0f} MiB")
        print(f"  {', '.join(f'{count} {name}' for name, count in operators.most_common())}")
        print(f"  of them {[name for name in _DATA_DEPENDENT if name in operators]} depend on data")
        expected = torch_asked(network)(pictures.numpy())
        print(f"  ONNX Runtime: {_compared(expected, onnx_asked(path)(pictures.numpy()))}")
        print(f"  OpenVINO: {_compared(expected, _openvino(path, pictures))}")


def _network(kind: str, pictures: Tensor, int8: bool) -> Network:
    name, architecture = _NETWORKS[kind]
    family = FAMILIES[name]
    body: Any = family.build({"image_size": [HEIGHT_PX, WIDTH_PX], **architecture})
    network = family.wrap(body, _MEAN, _STD).eval()
    _spread(network, pictures)
    if int8:
        reads = {f"body.{one.name}": one.reads for one in family.layers(body)}
        insert_quantizers(network, reads, learned=False)
        calibrate(network, [pictures], "max")
    return network.eval()


@torch.no_grad()
def _spread(network: Any, pictures: Tensor) -> None:
    """Scale heads until their logits differ: as they begin, they say the same of every place."""
    heads = {"objectness": network.body.rpn.objectness}
    for stage, head in enumerate(network.body.box_heads):
        heads[f"logits.{stage}"] = head.classes
    # In the order in which they run, since what is proposed decides what is classified.
    for name, layer in heads.items():
        logits = network(pictures)[name]
        layer.weight.mul_(_LOGIT_SPREAD / logits.std(dim=1).mean())


def _pictures(count: int) -> Tensor:
    """Return coloured clouds: noise of several sizes."""
    total = torch.zeros(count, 3, HEIGHT_PX, WIDTH_PX)
    for side in (8, 32, 128):
        noise = torch.rand(count, 3, HEIGHT_PX // side + 1, WIDTH_PX // side + 1)
        total += torch.nn.functional.interpolate(noise, (HEIGHT_PX, WIDTH_PX), mode="bilinear")
    return (total * 85).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _openvino(path: Path, pictures: Tensor) -> Answers:
    core = openvino.Core()
    graph = core.read_model(path)
    names = [output.any_name for output in graph.outputs]
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"image": pictures.numpy()})
    return {name: found[name] for name in names}


def _compared(expected: Answers, came: Answers) -> str:
    """Say how many objects are the same, and how far apart those are at most."""
    apart: list[tuple[float, float, float]] = []
    seen = 0
    for picture, scores in enumerate(expected["scores"]):
        places = np.flatnonzero(scores > 0)
        seen += len(places)
        for place in places:
            found = _same(expected, came, picture, int(place))
            if found is not None:
                apart.append(_apart(expected, came, picture, (int(place), found)))
    worst = np.max(apart, axis=0) if apart else np.full(3, np.nan)
    best = expected["scores"].max()
    return (
        f"{len(apart)} of {seen} objects paired (best score {best:.2f}); of those scores differ by "
        f"{worst[0]:.1e} at most, boxes by {worst[1]:.1e} of the input, masks by {worst[2]:.1e}"
    )


def _same(expected: Answers, came: Answers, picture: int, place: int) -> int | None:
    alike = (came["labels"][picture] == expected["labels"][picture, place]) & (
        came["scores"][picture] > 0
    )
    shared = overlaps(expected["boxes"][picture, place], came["boxes"][picture]) * alike
    best = int(shared.argmax())
    return best if shared[best] >= _SAME else None


def _apart(
    expected: Answers, came: Answers, picture: int, places: tuple[int, int]
) -> tuple[float, float, float]:
    ours, theirs = places

    def largest(name: str) -> float:
        one: npt.NDArray[Any] = expected[name][picture, ours]
        return float(np.abs(one - came[name][picture, theirs]).max())

    return largest("scores"), largest("boxes"), largest("masks")


if __name__ == "__main__":
    main()
