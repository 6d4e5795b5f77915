"""What torch really runs, as far as a CPU can show it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# They make the host wait for a GPU. Every item(), float() and bool() of a tensor ends in the first.
WAITING = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.unique",
    "aten.equal",
    "aten.repeat_interleave.Tensor",
)
# On a CPU these run no operator.
READING = {Tensor.cpu: "cpu()", Tensor.tolist: "tolist()", Tensor.numpy: "numpy()"}
# The host waits for a list of numbers to be copied, and so for everything before it.
COPYING = {torch.tensor: "tensor()", Tensor.new_tensor: "new_tensor()"}


class Operators(TorchDispatchMode):
    """Notes the name of every operator that runs while it is entered, such as "aten.mm.default".

    Attributes:
        names: Of all operators.
        waits: Of those that wait for a GPU, with selections by a mask, whose size it decides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        self.names.append(name)
        if name.startswith(WAITING) or (name.startswith("aten.index") and _by_mask(args)):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


class _Readings(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READING:
            self.found.append(READING[func])
        if func is Tensor.new_tensor or (func is torch.tensor and kwargs and "device" in kwargs):
            self.found.append(COPYING[func])
        return func(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[list[str]]:
    """Yield a list that grows with everything that would wait for a GPU.

    Waits inside of a kernel are not seen, nor are copies by ``to``.
    """
    with Operators() as operators, _Readings(operators.waits):
        yield operators.waits


def _by_mask(arguments) -> bool:
    indices = [index for argument in arguments if isinstance(argument, list) for index in argument]
    return any(index is not None and index.dtype is torch.bool for index in indices)
