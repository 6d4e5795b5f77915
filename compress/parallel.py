"""The processes that train together: one, or as many as torchrun or Accelerate started.

Every process holds the whole network and decodes its own part of each batch; gradients are
averaged. The folder of the run has to be on storage that all of them share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those that train one network.

    Args:
        rank: Of this one; 0 is the main process, which alone writes and talks.
        count: Of all.
        device: That this one computes on.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def joined(self, network: nn.Module) -> nn.Module:
        """Return what to call in training: gradients of all processes are averaged.

        Weights become those of the main process.
        """
        if self.count == 1:
            return network
        return DistributedDataParallel(network)

    def apart(self, network: nn.Module, *, yet: bool) -> AbstractContextManager[None]:
        """Let a backward pass keep its gradients to itself while more batches are to come."""
        if yet and isinstance(network, DistributedDataParallel):
            held: AbstractContextManager[None] = network.no_sync()
            return held
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of each value over all processes."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def gathered(self, items: list[Any]) -> list[Any]:
        """Return the items of all processes, in the order of their ranks."""
        if self.count == 1:
            return items
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def take_from_main(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite each tensor with the main process's."""
        if self.count == 1:
            return
        for tensor in tensors.values():
            # Collectives know no booleans, and those of GPUs nothing that lies elsewhere.
            kind = torch.uint8 if tensor.dtype is torch.bool else tensor.dtype
            carried = tensor.to(self.device, kind).contiguous()
            dist.broadcast(carried, src=0)
            tensor.copy_(carried)

    def same_as_main(self, network: nn.Module) -> None:
        """Give a network all that the main process's keeps in its state."""
        state = network.state_dict()
        self.take_from_main(state)
        # What is no parameter and no buffer is a copy in the state.
        network.load_state_dict(state)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process do something before the others do it."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()


def freeze_idle(network: nn.Module, images: Tensor) -> None:
    """Stop training what the outputs do not depend on, such as the token of masked pictures.

    Processes would wait for its gradient, which never comes; alone it gets none and stays as it is.

    Args:
        network: Changed in place; left in the mode it came in.
        images: Any batch [b, h, w, 3].
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    outputs = network(images)
    several = outputs.values() if isinstance(outputs, dict) else [outputs]
    total = torch.stack([output.sum() for output in several if output.requires_grad]).sum()
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    for module, training in modes.items():
        module.training = training


def launched() -> Processes:
    """Join the processes that a launcher started; alone where none did."""
    cuda = torch.cuda.is_available()
    if "LOCAL_RANK" not in os.environ:
        return Processes(device=torch.device("cuda" if cuda else "cpu"))
    # Imported late: one process does without it.
    from accelerate import PartialState  # noqa: PLC0415

    state = PartialState(cpu=not cuda)
    return Processes(state.process_index, state.num_processes, state.device)
