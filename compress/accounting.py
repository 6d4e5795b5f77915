"""What compression saves on paper: bytes and operations, by the conventions of GPUSQ-ViT.

Size: a 2:4 weight keeps two of four values and a 2-bit index for each survivor, so four INT8
weights take 2*8 + 2*2 = 20 bits instead of 128; 4:8 keeps two of four pairs and an index for each
pair, so eight INT4 weights take 4*4 + 2*2 = 20 bits instead of 256 (paper, storage table).
Operations are counted in two ways. As bits: a multiply-accumulate of w by a bits counts w*a / 32^2
of a float32 one. As tensor cores take them: one of INT8 counts 1/16 of a float32 one, one of INT4
half of that, since their rate doubles. Either way it counts half in a sparse layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.prune import Pattern

# Every module of torch that multiplies by a weight of its own.
_WEIGHTED = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)  # noqa: SLF001 - the base class
_FLOAT_BITS = 32
_INDEX_BITS = 2
# An INT8 multiply-accumulate is 1/16 of a float32 one, and a tensor core's rate doubles from each
# width to the next smaller one.
_RATE_BITS = 8 * 16


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
        """Bit operations as a number of float32 multiply-accumulates."""
        return self.macs * self._kept * self.weight_bits * self.input_bits / _FLOAT_BITS**2

    @property
    def tensor_core_macs(self) -> float:
        """Operations of tensor cores as a number of float32 multiply-accumulates.

        Both operands go in with the wider of the two widths.
        """
        return self.macs * self._kept * _rate(max(self.weight_bits, self.input_bits))

    @property
    def _kept(self) -> float:
        return self.pattern.kept / self.pattern.group if self.pattern else 1.0


@dataclass(frozen=True)
class Cost:
    """A network before and after.

    Args:
        parameters: All of them.
        dense_bytes: Of the float32 network.
        compressed_bytes: Everything: sparse, quantised and float parameters, and scales.
        dense_macs: For one picture, attention products included.
        product_macs: Those of two activations with each other: the products of attention.
        product_bits: Of both operands of those products after compression.
        float_macs: Bit operations after compression, as a number of float32
            multiply-accumulates; products of two activations in ``product_bits``.
        layer_size_ratio: Dense over compressed bytes of the sparse layers' weights alone; of all
            quantised ones where none is sparse.
        layer_operation_ratio: Dense over compressed operations of the same layers.
    """

    parameters: int
    dense_bytes: int
    compressed_bytes: int
    dense_macs: int
    product_macs: int
    product_bits: int
    float_macs: float
    layer_size_ratio: float
    layer_operation_ratio: float

    def integer_products(self, bits: int) -> float:
        """Return ``float_macs`` with the products of two activations in ``bits`` bits each."""
        squares = self.product_bits**2 - bits**2
        return self.float_macs - self.product_macs * squares / _FLOAT_BITS**2

    def tensor_core_macs(self, layers: list[LayerCost], bits: int) -> float:
        """Return all operations of tensor cores as a number of float32 multiply-accumulates.

        Args:
            layers: Those of this network.
            bits: Of both operands where two activations are multiplied, which is never sparse.
        """
        rest = self.dense_macs - self.product_macs - sum(layer.macs for layer in layers)
        in_layers = sum(layer.tensor_core_macs for layer in layers)
        return rest + in_layers + self.product_macs * _rate(bits)


def _rate(bits: int) -> float:
    """Return what a multiply-accumulate of tensor cores costs, in float32 ones."""
    return 1.0 if bits == _FLOAT_BITS else bits / _RATE_BITS


def _layer(
    network: nn.Module,
    name: str,
    macs: int,
    pattern: Pattern | None,
    bits: tuple[int, int],
    blocks: Mapping[str, int],
) -> LayerCost:
    weight = network.get_parameter(f"{name}.weight")
    weight_bits, input_bits = bits
    scales = weight.numel() // blocks[name] if name in blocks else len(weight)
    return LayerCost(
        name=name,
        parameters=weight.numel(),
        scales=scales + (input_bits < _FLOAT_BITS),
        macs=macs,
        pattern=pattern,
        weight_bits=weight_bits,
        input_bits=input_bits,
    )


def cost(
    network: nn.Module,
    picture: torch.Tensor,
    patterns: Mapping[str, Pattern],
    bits: Mapping[str, tuple[int, int]],
    blocks: Mapping[str, int] | None = None,
    product_bits: int = _FLOAT_BITS,
) -> tuple[Cost, list[LayerCost]]:
    """Count bytes and operations of a dense network and of its compressed form.

    Args:
        network: The dense one, in evaluation mode, on any device, also "meta".
        picture: [1, h, w, 3].
        patterns: Of the layers that become sparse, by name.
        bits: Of the weight and the input of every layer that is counted, by name.
        blocks: Weights that share a scale, of the layers where it is not an output channel.
        product_bits: Of both operands where two activations are multiplied.
    """
    # The counter sees the products of attention only where no fused kernel hides them.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    with plain_attention, torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(picture)
    flops = {module: sum(kinds.values()) for module, kinds in counter.get_flop_counts().items()}
    prefix = f"{type(network).__name__}."
    layers = [
        _layer(network, name, flops[prefix + name] // 2, patterns.get(name), widths, blocks or {})
        for name, widths in bits.items()
    ]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    in_layers = sum(layer.parameters for layer in layers)
    stored_bits = sum(layer.stored_bits + layer.scales * _FLOAT_BITS for layer in layers)
    macs = flops["Global"] // 2
    # What no module with a weight multiplies, two activations do.
    weighted = [name for name, module in network.named_modules() if isinstance(module, _WEIGHTED)]
    product_macs = macs - sum(flops.get(prefix + name, 0) // 2 for name in weighted)
    layer_macs = sum(layer.macs for layer in layers)
    float_macs = sum(layer.float_macs for layer in layers)
    pruned = [layer for layer in layers if layer.pattern] or layers
    total = Cost(
        parameters=parameters,
        dense_bytes=parameters * 4,
        compressed_bytes=(stored_bits + (parameters - in_layers) * _FLOAT_BITS) // 8,
        dense_macs=macs,
        product_macs=product_macs,
        product_bits=product_bits,
        float_macs=macs
        - layer_macs
        + float_macs
        - product_macs * (1 - product_bits**2 / _FLOAT_BITS**2),
        layer_size_ratio=_FLOAT_BITS
        * sum(layer.parameters for layer in pruned)
        / sum(layer.stored_bits for layer in pruned),
        layer_operation_ratio=sum(layer.macs for layer in pruned)
        / sum(layer.float_macs for layer in pruned),
    )
    return total, layers
