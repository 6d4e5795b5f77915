"""INT8 against float32 of the same DeiT on this CPU: the program behind ``make bench``.

Weights are random: time does not depend on them.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from compress import export, latency
from compress.calibrate import calibrate
from compress.networks import deit, roles
from compress.networks.network import Classifier
from compress.prune import magnitude_masks
from compress.quantize import insert_quantizers
from contract.preprocess import Preprocessing

_HIDDEN = {"tiny": 192, "small": 384, "base": 768}
_INPUT = Preprocessing(height=224, width=224, shorter_side_px=248)


@dataclass(frozen=True)
class Table:
    """What was measured, with the machine that measured it.

    Args:
        title: Network and machine.
        rows: One a contender and batch size.
    """

    title: str
    rows: list[latency.Latency]

    def text(self) -> str:
        """Return the table for a terminal."""
        head = f"{'runtime':24}{'batch':>6}{'median ms':>12}{'ratio':>8}"
        rows = [
            f"{row.name:24}{row.batch:>6}{row.median_ms:>12.1f}{row.ratio:>8.2f}"
            for row in self.rows
        ]
        return "\n".join([self.title, head, *rows])

    def json(self) -> str:
        """Return the table for a program."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def run(size: Literal["tiny", "small", "base"], repeats: int) -> Table:
    """Export one DeiT dense and 2:4 INT8, and time both.

    Args:
        size: Of the network.
        repeats: Timed calls of each runtime at each batch size.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dense, compressed = Path(folder) / "dense.onnx", Path(folder) / "int8.onnx"
        network = _network(size)
        export.write_graph(network, _INPUT, dense)
        _compress(network)
        export.write_graph(network, _INPUT, compressed)
        rows = latency.compare(dense, compressed, repeats=repeats)
    return Table(f"DeiT-{size} 224, random weights; {latency.machine()}", rows)


def _network(size: str) -> Classifier:
    hidden = _HIDDEN[size]
    body = deit.build(
        {
            "hidden_size": hidden,
            "num_attention_heads": hidden // 64,
            "intermediate_size": 4 * hidden,
            "num_labels": 1000,
        }
    )
    return Classifier(body, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()


def _compress(network: Classifier) -> None:
    layers = roles.layers(network.body)
    masks = magnitude_masks(network.body, [layer.name for layer in layers if layer.prune])
    masks.apply(network.body)
    reads = {f"body.{layer.name}": layer.reads for layer in layers}
    insert_quantizers(network, reads, learned=False)
    shape = (2, _INPUT.height, _INPUT.width, 3)
    calibrate(network, [torch.randint(0, 256, shape, dtype=torch.uint8)], observer="max")
