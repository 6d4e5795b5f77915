"""What the algorithm needs to know of a network, whichever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One layer with weights, and what is done to it.

    Args:
        name: Path of the module inside the network.
        role: What it is in the family's words, such as "query" or "patch embedding".
        reads: Layers with the same value read the same tensor, so they share its scale.
        prune: Whether its weight becomes sparse.
        reason: Why it is not pruned; empty where it is.
    """

    name: str
    role: str
    reads: str
    prune: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Family:
    """One file of this folder, as the pipeline sees it.

    Args:
        build: Builds an untrained body from keyword arguments of its configuration.
        load: Loads a body from a local folder or a hub name, for a number of classes.
        layers: Names every Linear and Conv2d of a body, in the order in which they run.
        blocks: Names the modules whose outputs are the feature maps, in order.
    """

    build: Callable[[dict[str, Any]], nn.Module]
    load: Callable[[str, int], nn.Module]
    layers: Callable[[nn.Module], list[Layer]]
    blocks: Callable[[nn.Module], list[str]]


class Classifier(nn.Module):
    """A transformers image classifier that reads pixels as they are stored.

    Normalisation is part of the network, so that training, export and serving cannot differ.

    Args:
        body: Maps ``pixel_values`` [b, 3, h, w] to an output with ``logits`` [b, k].
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Classify pictures.

        Args:
            images: [b, h, w, 3] uint8, or float in 0..255.

        Returns:
            [b, k] logits.
        """
        pixels = images.float() * self.scale + self.shift
        logits: Tensor = self.body(pixel_values=pixels.permute(0, 3, 1, 2)).logits
        return logits

    def use_exportable_attention(self) -> None:
        """Compute attention by plain matrix products.

        The fused kernel is faster in training; its export is larger, and fails for Swin.
        """
        self.body.set_attn_implementation("eager")  # type: ignore[operator]


@contextmanager
def captured_outputs(network: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the named modules return while the context is open.

    Yields:
        A dictionary that each forward pass fills anew, by module name.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
