"""What compression saves on paper: bytes and operations, by the conventions of GPUSQ-ViT.

Size: a 2:4 weight keeps two of four values and a 2-bit index for each survivor, so four INT8
weights take 2*8 + 2*2 = 20 bits instead of 128 (paper, storage table). Operations: a
multiply-accumulate of w by a bits counts w*a / 32^2 of a float32 one, and half when it is 2:4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
        sparse: Whether its weight is 2:4.
        bits: Of its weights and of its input; 32 is float.
    """

    name: str
    parameters: int
    scales: int
    macs: int
    sparse: bool
    bits: int

    @property
    def stored_bits(self) -> int:
        """Bits that the weight takes, indices included, scales not."""
        if not self.sparse:
            return self.parameters * self.bits
        return self.parameters // 2 * (self.bits + _INDEX_BITS)

    @property
    def float_macs(self) -> float:
        """Operations as a number of float32 multiply-accumulates."""
        return self.macs * (self.bits / _FLOAT_BITS) ** 2 * (0.5 if self.sparse else 1.0)


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
    sparse: Iterable[str],
    quantized: Iterable[str],
    bits: int,
) -> tuple[Cost, list[LayerCost]]:
    """Count bytes and operations of a dense network and of its compressed form.

    Args:
        network: The dense one, in evaluation mode.
        picture: [1, h, w, 3].
        sparse: Names of the layers that become 2:4.
        quantized: Names of the layers whose weight and input take ``bits`` bits.
        bits: 8 for INT8.
    """
    # The counter sees the products of attention only where no fused kernel hides them.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    with plain_attention, torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(picture)
    flops = {module: sum(kinds.values()) for module, kinds in counter.get_flop_counts().items()}
    sparse_names = set(sparse)
    prefix = f"{type(network).__name__}."
    layers = [
        LayerCost(
            name=name,
            parameters=network.get_parameter(f"{name}.weight").numel(),
            scales=len(network.get_parameter(f"{name}.weight")) + 1,
            macs=flops[prefix + name] // 2,
            sparse=name in sparse_names,
            bits=bits,
        )
        for name in quantized
    ]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    in_layers = sum(layer.parameters for layer in layers)
    stored_bits = sum(layer.stored_bits + layer.scales * _FLOAT_BITS for layer in layers)
    macs = flops["Global"] // 2
    layer_macs = sum(layer.macs for layer in layers)
    float_macs = sum(layer.float_macs for layer in layers)
    pruned = [layer for layer in layers if layer.sparse] or layers
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
