"""Which tensors are rounded, and to which format: from a recipe to each layer of a network."""

from __future__ import annotations

from typing import Literal

from torch import nn

from compress.attention import quantize_attention
from compress.errors import RecipeError
from compress.formats import FLOAT32, FORMATS, INT8, NumberFormat
from compress.networks.network import Layer, Network
from compress.quantize import LayerFormats, insert_quantizers
from compress.recipe import Quantize

# Layers whose output a residual connection adds.
_ADDED = ("attention output", "FFN out")
_FIRST_AND_LAST = ("patch embedding", "head")


def place_quantizers(network: Network, layers: list[Layer], settings: Quantize) -> None:
    """Put quantisers into a network as the recipe says.

    Args:
        network: Changed in place.
        layers: Of the network, by their names in it.
        settings: The recipe's.

    Raises:
        RecipeError: The placement asks for residual additions or attention that cannot be found.
    """
    roles = {layer.role for layer in layers}
    if settings.placement == "gemm+add+bmm" and "query" not in roles:
        raise RecipeError(
            "quantize.placement gemm+add+bmm needs attention with a query layer of its own, "
            "which this network does not have. Take gemm+add."
        )
    if settings.placement != "gemm" and not roles & {*_ADDED}:
        raise RecipeError(
            f"quantize.placement {settings.placement} rounds what residual additions read from the "
            "projection after attention and from the last FFN layer, and this network has no layer "
            "that is known as either. Take gemm."
        )
    formats = layer_formats(network, layers, settings)
    reads = {layer.name: layer.reads for layer in layers}
    insert_quantizers(network, reads, settings.learned_scales, formats)
    if settings.placement == "gemm+add+bmm":
        modules = [layer.name.rpartition(".")[0] for layer in layers if layer.role == "query"]
        form = FORMATS[settings.activations]
        quantize_attention(network, modules, settings.learned_scales, form)


def product_bits(settings: Quantize) -> int:
    """Return how wide the operands of attention's products are."""
    rounded = settings.placement == "gemm+add+bmm"
    return FORMATS[settings.activations].bits if rounded else FLOAT32.bits


def layer_formats(
    network: nn.Module, layers: list[Layer], settings: Quantize
) -> dict[str, LayerFormats]:
    """Decide how each layer is quantised.

    Returns:
        By layer name, with the reason wherever a layer is not treated as the rest.
    """
    return {
        layer.name: _formats(settings, layer, network.get_submodule(layer.name)) for layer in layers
    }


def _formats(settings: Quantize, layer: Layer, module: nn.Module) -> LayerFormats:
    weights, activations = FORMATS[settings.weights], FORMATS[settings.activations]
    reason, block_size = "", settings.block_size
    if weights.bits < INT8.bits and settings.first_last == "int8" and layer.role in _FIRST_AND_LAST:
        weights, block_size = INT8, None
        activations = FLOAT32 if activations is FLOAT32 else INT8
        reason = "first and last layers keep 8 bits"
    elif block_size and (unfit := _unfit(module, block_size)):
        reason, block_size = f"one scale an output channel: {unfit}", None
    scales = settings.weight_scales or _usual_scales(weights, settings.learned_scales)
    output = settings.placement != "gemm" and layer.role in _ADDED
    return LayerFormats(weights, activations, block_size, scales, output, reason)


def _usual_scales(weights: NumberFormat, learned: bool) -> Literal["max", "mse", "learned"]:
    if weights.bits == INT8.bits:
        return "max"
    return "learned" if learned else "mse"


def _unfit(module: nn.Module, block_size: int) -> str:
    if not isinstance(module, nn.Linear):
        return "blocks run along the reduction axis of a Linear"
    if module.in_features % block_size:
        return f"{module.in_features} inputs are not a multiple of {block_size}"
    return ""
