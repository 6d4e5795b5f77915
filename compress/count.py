"""Size and operations of the networks in Table 1 of GPUSQ-ViT, at real size: ``gpusq count``.

Nothing is run: the networks have shapes and no weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.accounting import cost
from compress.networks import deit, swin
from compress.networks.network import Classifier, Family, Layer
from compress.placement import layer_formats
from compress.prune import PATTERNS, Pattern
from compress.recipe import Quantize

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLASSES = 1000


@dataclass(frozen=True)
class _Network:
    """One row of the paper's Table 1.

    Args:
        name: As the paper calls it.
        side_px: Of its input.
        family: That builds it.
        architecture: Keyword arguments for that.
    """

    name: str
    side_px: int
    family: Family
    architecture: dict[str, Any]


def _deit(name: str, hidden: int) -> _Network:
    shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden}
    return _Network(name, 224, deit.FAMILY, {**shape, "num_attention_heads": hidden // 64})


def _swin(name: str, width: int, depth: int, side_px: int = 224) -> _Network:
    shape = {"embed_dim": width, "depths": [2, 2, depth, 2]}
    heads = [width // 32 * factor for factor in (1, 2, 4, 8)]
    window = {"image_size": side_px, "window_size": side_px // 32}
    return _Network(name, side_px, swin.FAMILY, {**shape, "num_heads": heads, **window})


NETWORKS = (
    _deit("DeiT-T", 192),
    _deit("DeiT-S", 384),
    _deit("DeiT-B", 768),
    _swin("Swin-T", 96, 6),
    _swin("Swin-S", 96, 18),
    _swin("Swin-B", 128, 18),
    _swin("Swin-B", 128, 18, side_px=384),
)
FORMS = {"2:4 INT8": ("2:4", "int8"), "4:8 INT4": ("4:8", "int4")}


@dataclass(frozen=True)
class Row:
    """One network in one form. Ratios are dense float32 over compressed.

    Args:
        network: Name and side of the input.
        form: Pattern and number format.
        parameters: All of them.
        dense_mb: In float32, in millions of bytes.
        compressed_mb: With indices, scales, and what stays in float.
        size_pruned: Of the pruned layers' weights and indices alone.
        size: Of the whole network.
        macs: Multiply-accumulates for one picture, products of attention included.
        operations_pruned: Bit operations of the pruned layers alone.
        operations_tensor_core: Whole network by the rates of tensor cores, attention in integers.
        operations_bits_float: Bit operations of the whole network, attention in float.
        operations_bits: Bit operations of the whole network, attention in integers.
    """

    network: str
    form: str
    parameters: int
    dense_mb: float
    compressed_mb: float
    size_pruned: float
    size: float
    macs: int
    operations_pruned: float
    operations_tensor_core: float
    operations_bits_float: float
    operations_bits: float


# Head, width and text of each column.
_COLUMNS: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
    ("network", -12, lambda row: row.network),
    ("form", -10, lambda row: row.form),
    ("params M", 9, lambda row: f"{row.parameters / 1e6:.1f}"),
    ("dense MB", 10, lambda row: f"{row.dense_mb:.1f}"),
    ("compr. MB", 11, lambda row: f"{row.compressed_mb:.1f}"),
    ("size (1)", 10, lambda row: f"{row.size_pruned:.2f}"),
    ("size (2)", 10, lambda row: f"{row.size:.2f}"),
    ("MACs G", 8, lambda row: f"{row.macs / 1e9:.2f}"),
    ("ops (a)", 9, lambda row: f"{row.operations_pruned:.1f}"),
    ("ops (b)", 9, lambda row: f"{row.operations_tensor_core:.1f}"),
    ("ops (c)", 9, lambda row: f"{row.operations_bits_float:.1f}"),
    ("ops (d)", 9, lambda row: f"{row.operations_bits:.1f}"),
)
CONVENTIONS = (
    "Ratios of dense float32 over compressed. The pattern's zeros are not stored or computed;",
    "patch embedding and head of the INT4 form are INT8, the head is dense.",
    "(1) weights and 2-bit indices of the pruned layers, without scales",
    "(2) the whole network: head, scales, and in float32 biases, norms, position embeddings",
    "(a) pruned layers: w*a/32^2 of a float32 operation for w by a bits, half of it if sparse",
    "(b) tensor cores: every product in integers, attention's too and dense; INT8 counts 1/16,",
    "    INT4 1/32, half of it if sparse",
    "(c) whole network as (a), the products of attention in float32",
    "(d) whole network as (a), the products of attention in integers",
)


@dataclass(frozen=True)
class Table:
    """All networks in both forms."""

    rows: list[Row]

    def text(self) -> str:
        """Return the table and what its columns count, for a terminal."""
        lines = [[head for head, _, _ in _COLUMNS]]
        lines += [[show(row) for _, _, show in _COLUMNS] for row in self.rows]
        widths = [width for _, width, _ in _COLUMNS]
        return "\n".join([*(_line(cells, widths) for cells in lines), "", *CONVENTIONS])

    def json(self) -> str:
        """Return the rows for a program."""
        return json.dumps([dataclasses.asdict(row) for row in self.rows], indent=2) + "\n"


def run() -> Table:
    """Count every network in every form."""
    return Table([row for network in NETWORKS for row in _rows(network)])


def _line(cells: list[str], widths: list[int]) -> str:
    pairs = zip(cells, widths, strict=True)
    return "".join(cell.ljust(-width) if width < 0 else cell.rjust(width) for cell, width in pairs)


def _rows(network: _Network) -> list[Row]:
    with torch.device("meta"):
        body = network.family.build({**network.architecture, "num_labels": _CLASSES})
        classifier = Classifier(body, _MEAN, _STD).eval()
        picture = torch.empty(1, network.side_px, network.side_px, 3)
    name = f"{network.name} {network.side_px}"
    return [_row(name, form, classifier, network.family.layers(body), picture) for form in FORMS]


def _row(
    name: str, form: str, classifier: Classifier, found: list[Layer], picture: torch.Tensor
) -> Row:
    pattern, numbers = PATTERNS[FORMS[form][0]], FORMS[form][1]
    layers = [dataclasses.replace(layer, name=f"body.{layer.name}") for layer in found]
    settings = Quantize(weights=numbers, activations=numbers, schedule=None)
    formats = layer_formats(classifier, layers, settings)
    bits = {layer: (one.weights.bits, one.activations.bits) for layer, one in formats.items()}
    patterns = {layer.name: pattern for layer in layers if _fits(classifier, layer, pattern)}
    total, costs = cost(classifier, picture, patterns, bits)
    products = min(weight for weight, _ in bits.values())
    return Row(
        network=name,
        form=form,
        parameters=total.parameters,
        dense_mb=total.dense_bytes / 1e6,
        compressed_mb=total.compressed_bytes / 1e6,
        size_pruned=total.layer_size_ratio,
        size=total.dense_bytes / total.compressed_bytes,
        macs=total.dense_macs,
        operations_pruned=total.layer_operation_ratio,
        operations_tensor_core=total.dense_macs / total.tensor_core_macs(costs, products),
        operations_bits_float=total.dense_macs / total.float_macs,
        operations_bits=total.dense_macs / total.integer_products(products),
    )


def _fits(network: nn.Module, layer: Layer, pattern: Pattern) -> bool:
    return layer.prune and not pattern.unfit(network.get_parameter(f"{layer.name}.weight"))
