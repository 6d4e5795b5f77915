"""Ranges of activations, found by showing the network pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import RecipeError
from compress.formats import INT4, UINT4, NumberFormat
from compress.quantize import ActivationQuantizer, activation_quantizers, switch_on

Observer = Literal["max", "percentile", "mse"]
_BINS = 4096
_EMPTY = torch.zeros(_BINS, dtype=torch.float64)
# Ranges that the search for the least squared error tries, as shares of the largest magnitude:
# 2.5 % apart, down to a five-hundredth.
_SHARES = 1.025 ** -torch.arange(250, dtype=torch.float64)


@dataclass
class _Seen:
    """What one quantiser saw.

    Args:
        smallest, largest: The least value, at most 0, and the largest magnitude.
        magnitudes: Histogram from 0 to the largest magnitude, [bins].
        positive: Of the positive values and zeros alone.
    """

    smallest: float
    largest: float
    magnitudes: Tensor
    positive: Tensor


@torch.no_grad()
def calibrate(
    network: nn.Module,
    batches: list[Tensor],
    observer: Observer = "percentile",
    percentile: float = 99.99,
) -> None:
    """Set the scale of every activation quantiser from what it sees.

    INT4 quantisers that see no negative value which INT4 would tell from zero become UINT4, which
    halves the step.

    Args:
        network: With quantisers inserted; left in the mode it came in.
        batches: Pictures, each [b, h, w, 3].
        observer: "max" takes the largest magnitude; "percentile" the one that ``percentile`` %
            of the magnitudes do not exceed, to 1/4096 of the largest; "mse" the one at which
            rounding and clipping together lose least, in squares.
        percentile: Above 50, at most 100.

    Raises:
        RecipeError: A quantiser saw nothing.
    """
    quantizers = {
        name: quantizer
        for name, quantizer in activation_quantizers(network).items()
        if not quantizer.known
    }
    training = network.training
    network.eval()
    switch_on(network, False)
    seen = _look(network, quantizers, batches, counted=observer != "max")
    for name, quantizer in quantizers.items():
        amax = _range(seen[name], quantizer.form, observer, percentile)
        if quantizer.form is INT4 and -seen[name].smallest < amax / INT4.high / 2:
            quantizer.form = UINT4
            amax = _range(seen[name], UINT4, observer, percentile)
        quantizer.set_range(amax)
    switch_on(network)
    network.train(training)


def _look(
    network: nn.Module,
    quantizers: dict[str, ActivationQuantizer],
    batches: list[Tensor],
    counted: bool,
) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}

    def grow(name: str, values: Tensor) -> None:
        entry = seen.setdefault(name, _Seen(0.0, 0.0, _EMPTY, _EMPTY))
        entry.smallest = min(entry.smallest, float(values.min()))
        entry.largest = max(entry.largest, float(values.abs().max()))

    def count(name: str, values: Tensor) -> None:
        entry = seen[name]
        largest = max(entry.largest, 1e-12)
        entry.magnitudes = entry.magnitudes + torch.histc(values.abs(), _BINS, 0, largest).cpu()
        entry.positive = entry.positive + torch.histc(values, _BINS, 0, largest).cpu()

    _observe(network, quantizers, batches, grow)
    if unseen := sorted(quantizers.keys() - seen.keys()):
        raise RecipeError(
            f"nothing passed through {len(unseen)} quantisers, the first being {unseen[0]}: "
            "this network does not compute there what its family says. "
            "Choose a smaller quantize.placement."
        )
    if counted:
        # A second pass with the range known gives an exact histogram in constant memory.
        _observe(network, quantizers, batches, count)
    return seen


def _range(seen: _Seen, form: NumberFormat, observer: Observer, percentile: float) -> float:
    if observer == "max":
        return seen.largest
    if observer == "mse":
        return _least_squares(seen, form)
    covered = seen.magnitudes.cumsum(0) / seen.magnitudes.sum()
    bin_index = int(torch.searchsorted(covered, percentile / 100))
    return seen.largest * min(bin_index + 1, _BINS) / _BINS


def _least_squares(seen: _Seen, form: NumberFormat) -> float:
    magnitudes = (torch.arange(_BINS, dtype=torch.float64) + 0.5) / _BINS
    ranges = _SHARES[:, None]
    width = ranges / form.high
    error = torch.zeros(len(ranges), dtype=torch.float64)
    for values, counts in (
        (magnitudes, seen.positive),
        (-magnitudes, seen.magnitudes - seen.positive),
    ):
        lost = form.round(values / width) * width - values
        error += lost.square() @ counts
    return seen.largest * float(_SHARES[error.argmin()])


def _observe(
    network: nn.Module,
    quantizers: dict[str, ActivationQuantizer],
    batches: list[Tensor],
    see: Callable[[str, Tensor], None],
) -> None:
    handles = [
        quantizer.register_forward_pre_hook(
            lambda _module, inputs, name=name: see(name, inputs[0].float())
        )
        for name, quantizer in quantizers.items()
    ]
    try:
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
