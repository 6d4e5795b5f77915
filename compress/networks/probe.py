"""What a network does with a picture, found by showing it an empty one: for family ``auto``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compress.networks.network import input_size, output_of

# Two, so that an axis of the batch is told from one of length one.
_PICTURES = 2
# Of a network that is built for no size in particular.
_SIZE_PX = 224
_WEIGHTED = (nn.Linear, nn.Conv2d)
_LISTS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True)
class Probe:
    """What was seen of each Linear and Conv2d that was reached, by name, in running order.

    Args:
        reads: A name for the tensor that it read first; layers that read the same one share it.
        calls: How often it ran.
        constant: Layers whose input no picture changes.
        answering: Layers whose output the logits depend on.
        maps: Modules in lists whose output is a feature map of each picture, in running order.
        logits: Shape of the answer.
    """

    reads: dict[str, str]
    calls: dict[str, int]
    constant: set[str]
    answering: set[str]
    maps: list[str]
    logits: tuple[int, ...]


def probe(body: nn.Module) -> Probe:
    """Run a body once on empty pictures and look at its layers.

    A layer's input depends on the picture, and the logits on its output, where torch's gradient
    graph says so; nothing is differentiated but that graph, and no parameter changes.

    Args:
        body: Maps ``pixel_values`` [b, 3, h, w] to an output with ``logits``; on any device,
            also "meta".
    """
    seen = _Seen()
    device = next(body.parameters()).device
    height, width = input_size(body) or (_SIZE_PX, _SIZE_PX)
    pixels = torch.zeros(_PICTURES, 3, height, width, device=device, requires_grad=True)
    with _evaluating(body), _hooked(body, seen), torch.enable_grad():
        # Some networks write into what they are given; a leaf that is differentiated forbids it.
        logits: Tensor = body(pixel_values=pixels.clone()).logits
    marks = list(seen.marks.values())
    reached: tuple[Tensor | None, ...] = ()
    if marks and logits.requires_grad:
        reached = torch.autograd.grad(logits.sum(), marks, allow_unused=True)
    answering = {
        name for name, slope in zip(seen.marks, reached, strict=False) if slope is not None
    }
    shape = tuple(logits.shape)
    return Probe(seen.reads, seen.calls, seen.constant, answering, list(seen.maps), shape)


@dataclass
class _Seen:
    reads: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)
    maps: dict[str, None] = field(default_factory=dict)
    # Zeros that are added to the layers' outputs, to ask what depends on them.
    marks: dict[str, Tensor] = field(default_factory=dict)
    # By identity and version: a tensor that is written into is another one. Kept, so that no
    # identity is given twice.
    tensors: dict[tuple[int, int], tuple[str, Tensor]] = field(default_factory=dict)

    def layer(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            tensor = inputs[0]
            self.calls[name] = self.calls.get(name, 0) + 1
            if name not in self.reads:
                key = (id(tensor), tensor._version)  # noqa: SLF001 - torch has no other name
                self.reads[name] = self.tensors.setdefault(key, (name, tensor))[0]
            if not tensor.requires_grad:
                self.constant.add(name)
                return output
            self.constant.discard(name)
            mark = output.new_zeros((), requires_grad=True)
            return output + self.marks.setdefault(name, mark)

        return hook

    def element(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = output_of(output)
            if isinstance(tensor, Tensor) and tensor.ndim > 2 and len(tensor) == _PICTURES:
                self.maps[name] = None

        return hook


@contextmanager
def _hooked(body: nn.Module, seen: _Seen) -> Iterator[None]:
    handles = []
    lists = {name for name, module in body.named_modules() if isinstance(module, _LISTS)}
    for name, module in body.named_modules():
        if isinstance(module, _WEIGHTED):
            handles.append(module.register_forward_hook(seen.layer(name)))
        elif name.rpartition(".")[0] in lists:
            handles.append(module.register_forward_hook(seen.element(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(body: nn.Module) -> Iterator[None]:
    """Evaluate with every parameter frozen, and leave the body as it was."""
    training = body.training
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    body.eval().requires_grad_(False)
    try:
        yield
    finally:
        body.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)
