"""Export networks at full size, with random weights, and compare the graph with torch.

    python -m benchmarks.full_size detr-r50
    python -m benchmarks.full_size mask-rcnn-swin-t --int8

Objects are compared by pairing: random weights make near ties, whose order two correct
implementations decide differently. Each object of torch is paired with the box of its class in the
graph's answer that overlaps it most; pairs that overlap by 0.9 are the same object.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino
import torch
from torch import Tensor

from compress.answers import Answers, Asked
from compress.calibrate import calibrate
from compress.evaluate import torch_asked
from compress.export import write_graph
from compress.networks import FAMILIES
from compress.networks.network import Network
from compress.pairing import pairs
from compress.quantize import insert_quantizers
from compress.reference import onnx_asked
from contract.preprocess import Preprocessing

_SWIN_T = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 7}
_REGIONS = {"backbone": _SWIN_T, "image_size": [800, 1216]}
_RESNET = {"backbone_config": {"model_type": "resnet"}}
_REFINED = {"with_box_refine": True, "two_stage": True}


@dataclass(frozen=True)
class System:
    """One network as it is published.

    Args:
        family: As recipes call it.
        size_px: Height and width of the input.
        architecture: As recipes give it.
        classes: That it tells apart.
    """

    family: str
    size_px: tuple[int, int]
    architecture: dict[str, Any]
    classes: int = 80


SYSTEMS = {
    "upernet-swin-t": System("upernet", (512, 512), {"backbone_config": _SWIN_T}, 150),
    "upernet-swin-b": System("upernet", (512, 512), {"backbone_config": _SWIN_B}, 150),
    "detr-r50": System("detr", (800, 800), {}),
    "deformable-detr-r50": System("deformable_detr", (800, 800), _RESNET),
    "deformable-detr-r50-two-stage": System("deformable_detr", (800, 800), {**_RESNET, **_REFINED}),
    "deformable-detr-swin-t": System(
        "deformable_detr", (800, 800), {"backbone_config": {"model_type": "swin", **_SWIN_T}}
    ),
    "mask-rcnn-swin-t": System("mask_rcnn", (800, 1216), _REGIONS),
    # As the Swin authors trained it.
    "cascade-mask-rcnn-swin-t": System(
        "cascade_mask_rcnn",
        (800, 1216),
        {
            **_REGIONS,
            "class_agnostic": False,
            "box_convs": 4,
            "box_linears": 1,
            "box_norm": True,
        },
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
    parser.add_argument("network", choices=sorted(SYSTEMS))
    parser.add_argument("--int8", action="store_true", help="quantise every layer")
    arguments = parser.parse_args()
    system = SYSTEMS[arguments.network]
    torch.manual_seed(0)
    pictures = _pictures(1, system.size_px)
    network = _network(system, pictures, arguments.int8)
    height, width = system.size_px
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        started = time.process_time()
        write_graph(network, Preprocessing(height, width, framing="letterbox"), path)
        seconds = time.process_time() - started
        print(f"{arguments.network}{' int8' * arguments.int8}, {height} x {width}:")
        _describe(network, path, seconds)
        expected = torch_asked(network)(pictures.numpy())
        for name, ask in (("ONNX Runtime", onnx_asked(path)), ("OpenVINO", _openvino(path))):
            came, seconds = _timed(ask, pictures.numpy())
            print(f"  {name}, {seconds:.2f} s a picture: {_compared(expected, came)}")


def _describe(network: Network, path: Path, seconds: float) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    weights = sum(one.numel() for one in network.parameters())
    print(
        f"  {weights / 1e6:.1f} M weights, {operators.total()} nodes, {seconds:.0f} s of one core"
    )
    print(f"  peak memory {memory:.1f} GiB, file {path.stat().st_size / 1e6:.0f} MB")
    print(f"  {', '.join(f'{count} {name}' for name, count in operators.most_common())}")
    print(f"  of them {[name for name in _DATA_DEPENDENT if name in operators]} depend on data")


def _network(system: System, pictures: Tensor, int8: bool) -> Network:
    family = FAMILIES[system.family]
    body: Any = family.build({**system.architecture, "num_labels": system.classes})
    network = family.wrap(body, _MEAN, _STD).eval()
    if "masks" in network.outputs:
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


def _pictures(count: int, size_px: tuple[int, int]) -> Tensor:
    """Return coloured clouds: noise of several sizes."""
    height, width = size_px
    total = torch.zeros(count, 3, height, width)
    for side in (8, 32, 128):
        noise = torch.rand(count, 3, height // side + 1, width // side + 1)
        total += torch.nn.functional.interpolate(noise, size_px, mode="bilinear")
    return (total * 85).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _openvino(path: Path) -> Asked:
    core = openvino.Core()
    graph = core.read_model(path)
    names = [output.any_name for output in graph.outputs]
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def ask(images: npt.NDArray[np.uint8]) -> Answers:
        found = compiled({"image": images})
        return {name: found[name] for name in names}

    return ask


def _timed(ask: Asked, images: npt.NDArray[np.uint8]) -> tuple[Answers, float]:
    """Return the answers, and the median seconds of three calls after a first one."""
    came = ask(images)
    found = []
    for _ in range(3):
        started = time.perf_counter()
        ask(images)
        found.append(time.perf_counter() - started)
    return came, statistics.median(found)


def _compared(expected: Answers, came: Answers) -> str:
    """Say how many objects or pixels are the same, and how far apart objects are at most."""
    if "class_map" in expected:
        differing = float((expected["class_map"] != came["class_map"]).mean())
        return f"{differing:.2e} of the pixels get another class"
    found = [
        (picture, pair)
        for picture in range(len(expected["scores"]))
        # Random weights are sure of nothing.
        for pair in pairs(expected, came, picture, seen=0)
    ]
    apart = [
        _apart(expected, came, picture, (pair.place, pair.other))
        for picture, pair in found
        if pair.other is not None and pair.overlap >= _SAME
    ]
    worst = np.max(apart, axis=0) if apart else np.full(3, np.nan)
    best = expected["scores"].max()
    masks = f", masks by {worst[2]:.1e}" if "masks" in expected else ""
    return (
        f"{len(apart)} of {len(found)} objects paired (best score {best:.2f}); of those scores "
        f"differ by {worst[0]:.1e} at most, boxes by {worst[1]:.1e} of the input{masks}"
    )


def _apart(
    expected: Answers, came: Answers, picture: int, places: tuple[int, int]
) -> tuple[float, float, float]:
    ours, theirs = places

    def largest(name: str) -> float:
        one: npt.NDArray[Any] = expected[name][picture, ours]
        return float(np.abs(one - came[name][picture, theirs]).max())

    masks = largest("masks") if "masks" in expected else 0.0
    return largest("scores"), largest("boxes"), masks


if __name__ == "__main__":
    main()
