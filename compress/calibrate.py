"""Ranges of activations, found by showing the network pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from compress.quantize import ActivationQuantizer, activation_quantizers, switch_on

_BINS = 4096


@torch.no_grad()
def calibrate(
    network: nn.Module,
    batches: list[Tensor],
    observer: Literal["max", "percentile"] = "percentile",
    percentile: float = 99.99,
) -> None:
    """Set the scale of every activation quantiser from what it sees.

    Args:
        network: With quantisers inserted; left in the mode it came in.
        batches: Pictures, each [b, h, w, 3].
        observer: "max" takes the largest magnitude; "percentile" the one that ``percentile`` %
            of the magnitudes do not exceed, to 1/4096 of the largest.
        percentile: Above 50, at most 100.
    """
    quantizers = activation_quantizers(network)
    training = network.training
    network.eval()
    switch_on(network, False)
    largest = dict.fromkeys(quantizers, 0.0)

    def grow(name: str, magnitudes: Tensor) -> None:
        largest[name] = max(largest[name], float(magnitudes.max()))

    _observe(network, quantizers, batches, grow)
    ranges = largest
    if observer == "percentile":
        ranges = _percentiles(network, quantizers, batches, ranges, percentile)
    for name, quantizer in quantizers.items():
        quantizer.set_range(ranges[name])
    switch_on(network)
    network.train(training)


def _percentiles(
    network: nn.Module,
    quantizers: dict[str, ActivationQuantizer],
    batches: list[Tensor],
    largest: dict[str, float],
    percentile: float,
) -> dict[str, float]:
    # A second pass with the range known gives an exact histogram in constant memory.
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in quantizers}

    def count(name: str, magnitudes: Tensor) -> None:
        histogram = torch.histc(magnitudes, _BINS, 0, max(largest[name], 1e-12))
        counts[name] += histogram.cpu()

    _observe(network, quantizers, batches, count)
    ranges = {}
    for name, histogram in counts.items():
        covered = histogram.cumsum(0) / histogram.sum()
        bin_index = int(torch.searchsorted(covered, percentile / 100))
        ranges[name] = largest[name] * min(bin_index + 1, _BINS) / _BINS
    return ranges


def _observe(
    network: nn.Module,
    quantizers: dict[str, ActivationQuantizer],
    batches: list[Tensor],
    see: Callable[[str, Tensor], None],
) -> None:
    handles = [
        quantizer.register_forward_pre_hook(
            lambda _module, inputs, name=name: see(name, inputs[0].float().abs())
        )
        for name, quantizer in quantizers.items()
    ]
    try:
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
