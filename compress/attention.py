"""Attention whose two products take rounded inputs, through transformers' attention interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from compress.formats import FP8, NumberFormat
from compress.networks.network import Classifier
from compress.quantize import ActivationQuantizer

_NAME = "gpusq_quantized"


class ProductQuantizers(nn.Module):
    """The quantisers of one attention: query, key, softmax output and value.

    In FP8 the softmax output has the fixed range 1, as NVIDIA's fused kernels ask for; steps of a
    float format are fine where attention is spread thin, those of an integer format are not.

    Args:
        learned: Whether training moves the scales.
        form: Number format.
    """

    def __init__(self, learned: bool, form: NumberFormat) -> None:
        super().__init__()
        self.query = ActivationQuantizer(learned, form)
        self.key = ActivationQuantizer(learned, form)
        self.shares = ActivationQuantizer(learned, form, amax=1.0 if form is FP8 else None)
        self.value = ActivationQuantizer(learned, form)


def quantize_attention(
    network: Classifier, modules: Iterable[str], learned: bool, form: NumberFormat
) -> None:
    """Round the inputs of both products in the named attentions.

    Args:
        network: Changed in place.
        modules: Paths of the modules that call transformers' attention interface.
        learned: Whether training moves the scales.
        form: Number format.
    """
    for name in modules:
        network.get_submodule(name).products = ProductQuantizers(learned, form)
    AttentionInterface.register(_NAME, _attention)
    network.body.set_attn_implementation(_NAME)  # type: ignore[operator]


def is_quantized(network: nn.Module) -> bool:
    """Whether the network computes attention from rounded inputs."""
    return any(isinstance(module, ProductQuantizers) for module in network.modules())


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention of query, key and value [b, heads, tokens, channels]."""
    rounded: ProductQuantizers = module.products
    # The key is turned before it is rounded, so that nothing stands between Q/DQ and the product.
    products = rounded.query(query) @ rounded.key(key.transpose(2, 3)) * options["scaling"]
    if attention_mask is not None:
        products = products + attention_mask
    shares = products.float().softmax(dim=-1)
    shares = nn.functional.dropout(shares, options.get("dropout", 0.0), module.training)
    mixed = rounded.shares(shares) @ rounded.value(value)
    return mixed.transpose(1, 2).contiguous(), shares
