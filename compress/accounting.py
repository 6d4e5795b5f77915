"""What compression saves on paper: bytes and operations, by the conventions of GPUSQ-ViT.

Size: a 2:4 weight keeps two of four values and a 2-bit index for each survivor, so four INT8
weights take 2*8 + 2*2 = 20 bits instead of 128; 4:8 keeps two of four pairs and an index for each
pair, so eight INT4 weights take 4*4 + 2*2 = 20 bits instead of 256 (paper, storage table).
Operations: a multiply-accumulate of w by a bits counts w*a / 32^2 of a float32 one, and half of
that in a sparse layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.prune import Pattern

_FLOAT_BITS = 32
_INDEX_BITS = 2


@dataclass(frozen=True)
class LayerCost:
    """One layer's share.

    Args:
        name: Of the layer.
        parameters: Its weights, without the bias.
        scales: Float32 scales of its weight and input.
        macs: Multiply-accumulates for one picture.
        pattern: Of its weight; None is dense.
        weight_bits: 32 is float.
        input_bits: The same.
    """

    name: str
    parameters: int
    scales: int
    macs: int
    pattern: Pattern | None
    weight_bits: int
    input_bits: int

    @property
    def stored_bits(self) -> int:
        """Bits that the weight takes, indices included, scales not."""
        if self.pattern is None:
            return self.parameters * self.weight_bits
        groups = self.parameters // self.pattern.group
        indices = self.pattern.kept // self.pattern.width
        return groups * (self.pattern.kept * self.weight_bits + indices * _INDEX_BITS)

    @property
    def float_macs(self) -> float:
        """Operations as a number of float32 multiply-accumulates."""
        kept = self.pattern.kept / self.pattern.group if self.pattern else 1.0
        return self.macs * kept * self.weight_bits * self.input_bits / _FLOAT_BITS**2


@dataclass(frozen=True)
class Cost:
    """A network before and after.

    Args:
        parameters: All of them.
        dense_bytes: Of the float32 network.
        compressed_bytes: Everything: sparse, quantised and float parameters, and scales.
        dense_macs: For one picture, attention products included.
        float_macs: After compression, as a number of float32 multiply-accumulates.
        layer_size_ratio: Dense over compressed bytes of the sparse layers' weights alone; of all
            quantised ones where none is sparse.
        layer_operation_ratio: Dense over compressed operations of the same layers.
    """

    parameters: int
    dense_bytes: int
    compressed_bytes: int
    dense_macs: int
    float_macs: float
    layer_size_ratio: float
    layer_operation_ratio: float


def cost(
    network: nn.Module,
    picture: torch.Tensor,
    patterns: Mapping[str, Pattern],
    bits: Mapping[str, tuple[int, int]],
) -> tuple[Cost, list[LayerCost]]:
    """Count bytes and operations of a dense network and of its compressed form.

    Args:
        network: The dense one, in evaluation mode.
        picture: [1, h, w, 3].
        patterns: Of the layers that become sparse, by name.
        bits: Of the weight and the input of every layer that is counted, by name.
    """
    # The counter sees the products of attention only where no fused kernel hides them.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    with plain_attention, torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(picture)
    flops = {module: sum(kinds.values()) for module, kinds in counter.get_flop_counts().items()}
    prefix = f"{type(network).__name__}."
    layers = [
        LayerCost(
            name=name,
            parameters=network.get_parameter(f"{name}.weight").numel(),
            scales=len(network.get_parameter(f"{name}.weight")) + 1,
            macs=flops[prefix + name] // 2,
            pattern=patterns.get(name),
            weight_bits=weight_bits,
            input_bits=input_bits,
        )
        for name, (weight_bits, input_bits) in bits.items()
    ]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    in_layers = sum(layer.parameters for layer in layers)
    stored_bits = sum(layer.stored_bits + layer.scales * _FLOAT_BITS for layer in layers)
    macs = flops["Global"] // 2
    layer_macs = sum(layer.macs for layer in layers)
    float_macs = sum(layer.float_macs for layer in layers)
    pruned = [layer for layer in layers if layer.pattern] or layers
    total = Cost(
        parameters=parameters,
        dense_bytes=parameters * 4,
        compressed_bytes=(stored_bits + (parameters - in_layers) * _FLOAT_BITS) // 8,
        dense_macs=macs,
        float_macs=macs - layer_macs + float_macs,
        layer_size_ratio=_FLOAT_BITS
        * sum(layer.parameters for layer in pruned)
        / sum(layer.stored_bits for layer in pruned),
        layer_operation_ratio=sum(layer.macs for layer in pruned)
        / sum(layer.float_macs for layer in pruned),
    )
    return total, layers
