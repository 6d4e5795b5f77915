"""What the algorithm needs to know of a network, whichever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress.criteria.classify import OneClass
from compress.criteria.criterion import Criterion


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
class Left:
    """A parameter of two or more axes that is neither pruned nor quantised.

    Args:
        name: Path of the parameter inside the network.
        shape: Of it.
        reason: Why it stays as it is.
    """

    name: str
    shape: tuple[int, ...]
    reason: str


class Network(nn.Module):
    """A network that reads pixels as they are stored and answers as the graph contract says.

    Normalisation is part of it, so that training, export and serving cannot differ. A subclass
    says in ``forward`` what the body gives, and in :meth:`answer` what becomes of it.

    Args:
        body: Maps ``pixel_values`` [b, 3, h, w] to an output.
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel.
    """

    # What it is for, as recipes and cards call it.
    task: ClassVar[str]
    # Of the exported graph, in its order.
    outputs: ClassVar[tuple[str, ...]]

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalise [b, h, w, 3] pictures, uint8 or float in 0..255, to [b, 3, h, w]."""
        return (images.float() * self.scale + self.shift).permute(0, 3, 1, 2)

    def answer(self, raw: Any) -> dict[str, Tensor]:
        """Turn what ``forward`` gives into the graph's outputs, by name."""
        raise NotImplementedError

    def hint(self, _raw: Any, _targets: Any = None) -> Any:
        """Return what ``forward`` needs to be compared with this network and with labels.

        Args:
            _raw: What this network gave; None where nobody teaches.
            _targets: Labels as the criterion takes them.
        """
        return None

    def use_exportable_attention(self) -> None:
        """Compute attention by plain matrix products.

        The fused kernel is faster in training; its export is larger, and fails for Swin.
        """
        self.body.set_attn_implementation("eager")  # type: ignore[operator]


class Classifier(Network):
    """An image classifier of transformers: its body gives ``logits`` [b, k]."""

    task = "classify"
    outputs = ("scores",)

    def forward(self, images: Tensor, _hint: None = None) -> Tensor:
        """Return the [b, k] logits of [b, h, w, 3] pictures, uint8 or float in 0..255."""
        logits: Tensor = self.body(pixel_values=self.pixels(images)).logits
        return logits

    def answer(self, raw: Tensor) -> dict[str, Tensor]:
        """Return ``scores`` [b, k]: the probability of each class."""
        return {"scores": raw.softmax(dim=-1)}


def _nothing(_body: nn.Module) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Family:
    """One file of this folder, as the pipeline sees it.

    Args:
        build: Builds an untrained body from keyword arguments of its configuration.
        load: Loads a body from a local folder or a hub name, for a number of classes.
        layers: Names every Linear and Conv2d of a body, in the order in which they run.
        blocks: Names the modules whose outputs are the feature maps, in order.
        unhandled: Names the Linears and Conv2ds that ``layers`` leaves out, each with the reason.
        wrap: Makes a network of a body.
        criterion: Compares two such networks.
    """

    build: Callable[[dict[str, Any]], nn.Module]
    load: Callable[[str, int], nn.Module]
    layers: Callable[[nn.Module], list[Layer]]
    blocks: Callable[[nn.Module], list[str]]
    unhandled: Callable[[nn.Module], dict[str, str]] = _nothing
    wrap: type[Network] = Classifier
    criterion: Criterion = field(default_factory=OneClass)

    @property
    def task(self) -> str:
        """What its networks are for, as recipes and cards call it."""
        return self.wrap.task


@contextmanager
def captured_outputs(network: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the named modules return while the context is open.

    Yields:
        A dictionary that each forward pass fills anew, by module name: [b, ..., channels].
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = _channels_last(output_of(output), modules[name])

        return hook

    modules = {name: network.get_submodule(name) for name in names}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def output_of(returned: Any) -> Any:
    """Return the tensor among what a module of transformers returns: the first, if several."""
    return returned[0] if isinstance(returned, tuple) else returned


def _channels_last(output: Tensor, module: nn.Module) -> Tensor:
    """Lay out a convolution's map [b, channels, h, w] as [b, h, w, channels]."""
    convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
    return output.movedim(1, -1) if convolves and output.ndim == 4 else output


def input_size(body: Any) -> tuple[int, int] | None:
    """Return the height and width that a body was built for; None is any."""
    config = getattr(body.config, "vision_config", body.config)
    found = getattr(config, "image_size", None)
    if found is None:
        return None
    height, width = (found, found) if isinstance(found, int) else found
    return height, width


def left_in_float(
    body: nn.Module, handled: Collection[str], unhandled: Mapping[str, str]
) -> list[Left]:
    """Name every parameter of two or more axes that is no weight of a handled layer.

    Args:
        body: Of the dense network.
        handled: Layers that are quantised, by name.
        unhandled: Why other layers are not, by name.
    """
    weights = {f"{name}.weight" for name in handled}
    found = []
    for name, parameter in body.named_parameters():
        if parameter.ndim < 2 or name in weights:
            continue
        module = name.rpartition(".")[0]
        reason = unhandled.get(module) or _reason(body.get_submodule(module), name)
        found.append(Left(name, tuple(parameter.shape), reason))
    return found


# By a part of the parameter's name; the first that fits.
_PARAMETERS = {
    "bias": "added to the scores of attention or to an output, no operand of a product",
    "position": "added to tokens that are rounded afterwards, no operand of a product",
    "pos_emb": "added to tokens that are rounded afterwards, no operand of a product",
    "token": "a token beside those of the picture, no weight of a product",
    "latents": "tokens that the picture is read into, no weight of a product",
    "scale": "a factor of each channel or head, no matrix",
    "gamma": "a factor of each channel or head, no matrix",
}


def _reason(module: nn.Module, name: str) -> str:
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # noqa: SLF001 - torch's base class
        return "a transposed convolution, whose sums run along the other axis of its weight"
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):  # noqa: SLF001 - the same
        return f"a {type(module).__name__} that is not among the network's layers"
    for part, reason in _PARAMETERS.items():
        if part in name:
            return reason
    if isinstance(module, nn.Embedding):
        return "a table that is looked up, no operand of a product"
    return "neither the weight of a Linear nor of a Conv2d"
