"""Attention as two products of its own, through transformers' attention interface.

With rounded inputs, which no fused kernel takes, and in bfloat16 on a CPU, where the fused kernel
is the slower way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from compress.formats import FP8, NumberFormat
from compress.networks.network import Network
from compress.quantize import ActivationQuantizer

_QUANTIZED = "gpusq_quantized"
_BY_PRODUCTS = "gpusq_by_products"
# Beyond, the matrix of all pairs of tokens takes more memory than its speed is worth.
_MOST_TOKENS = 1024


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
    network: Network, modules: Iterable[str], learned: bool, form: NumberFormat
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
    AttentionInterface.register(_QUANTIZED, _attention)
    network.body.set_attn_implementation(_QUANTIZED)  # type: ignore[operator]


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


def prefer_products(body: nn.Module) -> None:
    """Let attention in bfloat16 on a CPU be two products instead of torch's fused kernel.

    Everything else goes on as before: other precisions and devices, and bodies that do not call
    transformers' attention interface or have chosen something else than the fused kernel.

    Args:
        body: With models of transformers in it; changed in place.
    """
    AttentionInterface.register(_BY_PRODUCTS, _by_products)
    # A detector's backbone may be the only model of transformers in it.
    for part in [part for part in body.modules() if isinstance(part, PreTrainedModel)]:
        # transformers has no public name for either.
        chosen, open_ = part.config._attn_implementation, part._can_set_attn_implementation()  # noqa: SLF001
        if chosen == "sdpa" and open_:
            part.set_attn_implementation(_BY_PRODUCTS)


def _by_products(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention of query, key and value [b, heads, tokens, channels]."""
    if not _slow_when_fused(query) or not _plain(module, query, key, attention_mask, options):
        fused = ALL_ATTENTION_FUNCTIONS["sdpa"]
        found: tuple[Tensor, None] = fused(module, query, key, value, attention_mask, **options)
        return found
    products = (query * options["scaling"]) @ key.transpose(2, 3)
    if attention_mask is not None:
        products = products + attention_mask.to(products.dtype)
    shares = nn.functional.dropout(
        products.softmax(dim=-1), options.get("dropout", 0.0), module.training
    )
    return (shares @ value).transpose(1, 2), None


def _slow_when_fused(query: Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype is torch.bfloat16
        and query.shape[2] <= _MOST_TOKENS
    )


def _plain(
    module: Any, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> bool:
    """Whether nothing is asked for but a scale, a mask to add and dropout."""
    others = {name: value for name, value in options.items() if name not in ("dropout", "scaling")}
    return (
        getattr(module, "is_causal", True) is False
        and options.get("scaling") is not None
        and query.shape[1] == key.shape[1]
        and (mask is None or mask.is_floating_point())
        and all(value is None or value is False for value in others.values())
    )
