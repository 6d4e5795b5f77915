"""Networks of every task as ONNX graphs, run and looked at."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

from compress.export import write_graph
from compress.networks.network import Family, Network, captured_outputs
from compress.quantize import activation_quantizers, insert_quantizers, switch_on
from contract.preprocess import Preprocessing

# Shapes that depend on the data, and what TensorRT computes wrongly without a word.
FORBIDDEN = {"If", "Loop", "Scan", "NonZero", "GridSample", "NonMaxSuppression", "Unique"}


def export(network: Network, size: tuple[int, int], path: Path) -> Counter[str]:
    """Write a network's graph; returns how often it has each operator."""
    write_graph(network, Preprocessing(*size, framing="letterbox"), path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def run(path: Path, images: Tensor) -> dict[str, npt.NDArray[Any]]:
    """Return what ONNX Runtime makes of [b, h, w, 3] pictures, by output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images.numpy()}), strict=True))


def run_openvino(path: Path, images: Tensor) -> dict[str, npt.NDArray[Any]]:
    """Return what OpenVINO makes of them in float32."""
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"image": images.numpy()})
    # A port may have names beside that of the file.
    return {name: found[port] for port in compiled.outputs for name in port.names}


def answer(network: Any, images: Tensor) -> dict[str, npt.NDArray[Any]]:
    """Return what the network itself makes of them."""
    with torch.inference_mode():
        return {name: part.numpy() for name, part in network.answer(network(images)).items()}


def quantize(network: Any, family: Family, images: Tensor) -> None:
    """Quantise every layer that the family names to INT8, calibrated on the largest value."""
    named = family.layers(network.body)
    insert_quantizers(network, {f"body.{at.name}": f"body.{at.reads}" for at in named}, False)
    network.eval()
    quantizers = activation_quantizers(network)
    largest = dict.fromkeys(quantizers, 0.0)

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest[name] = max(largest[name], float(inputs[0].abs().max()))

        return hook

    handles = [one.register_forward_pre_hook(keep(name)) for name, one in quantizers.items()]
    with torch.inference_mode():
        network(images)
    for name, one in quantizers.items():
        one.set_range(largest[name])
    for handle in handles:
        handle.remove()
    switch_on(network)


def running_order(network: Any, names: list[str], images: Tensor) -> list[str]:
    """Return the named modules in the order in which they first run."""
    ran: dict[str, None] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, _output, name=name: ran.setdefault(name)
        )
        for name in names
    ]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return list(ran)


def maps(network: Any, names: list[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of each feature map that distillation would see."""
    with captured_outputs(network, names) as outputs, torch.inference_mode():
        network(images)
        return {name: tuple(output.shape) for name, output in outputs.items()}


def shaken(body: nn.Module, by: float = 0.1) -> nn.Module:
    """Move every weight and statistic off the round value that it begins at."""
    with torch.no_grad():
        for name, value in [*body.named_parameters(), *body.named_buffers()]:
            if value.is_floating_point():
                moved = by * torch.randn_like(value)
                value.add_(moved.abs() if name.endswith("running_var") else moved)
    return body


def inputs(network: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Return what each of the named layers reads."""
    read: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            read[name] = given[0]

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return read
