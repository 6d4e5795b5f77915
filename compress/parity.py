"""How far an exported graph is from the network it came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from compress import agreement
from compress.agreement import Parity
from compress.answers import joined
from compress.evaluate import torch_asked
from compress.networks.network import Network
from compress.reference import onnx_asked


def compare(network: Network, model: Path, pictures: Iterable[Tensor], task: str) -> Parity:
    """Compare ONNX Runtime on the graph with the network itself.

    Args:
        network: In evaluation mode, on the CPU.
        model: Its graph.
        pictures: Batches [b, h, w, 3].
        task: Says what is compared.
    """
    ask, ask_graph = torch_asked(network), onnx_asked(model)
    answers = [(ask(batch.numpy()), ask_graph(batch.numpy())) for batch in pictures]
    return agreement.compare(
        task,
        joined(expected for expected, _ in answers),
        joined(came for _, came in answers),
    )
