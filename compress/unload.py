"""Memory without a network that nothing needs for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from compress.errors import CheckpointError
from compress.run import Run


@contextmanager
def unloaded(network: nn.Module, run: Run, name: str) -> Iterator[None]:
    """Free a network's weights while the context is open, then read them back.

    Args:
        network: Useless meanwhile; on the CPU from then on.
        run: Holds the same weights.
        name: Of the stage that made them.

    Raises:
        CheckpointError: They cannot be read back.
    """
    for parameter in network.cpu().parameters():
        parameter.data = parameter.new_empty(0)
    yield
    kept = run.load(name)
    if kept is None:
        raise CheckpointError(
            f"expected {name}.pt in {run.folder}, where this run put it, and found none. Leave the "
            "folder alone until the run ends, then start it again."
        )
    for key, parameter in network.named_parameters():
        parameter.data = kept["network"][key]
