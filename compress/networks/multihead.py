"""``nn.MultiheadAttention``, taken apart into Linear layers that can be pruned and quantised."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def split_multihead(body: nn.Module) -> list[str]:
    """Replace every ``nn.MultiheadAttention`` of a body by one with a Linear for each product.

    ``nn.MultiheadAttention`` holds one bare weight for query, key and value and calls no layer.
    One that appends keys of its own (``add_bias_kv``, ``add_zero_attn``) stays as it is.

    Args:
        body: Changed in place.

    Returns:
        The names of what was replaced.
    """
    found = [
        name
        for name, module in body.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        and module.bias_k is None
        and not module.add_zero_attn
    ]
    for name in found:
        parent, _, child = name.rpartition(".")
        fused = body.get_submodule(name)
        assert isinstance(fused, nn.MultiheadAttention)  # noqa: S101 - found as one
        setattr(body.get_submodule(parent), child, SplitMultiheadAttention(fused))
    return found


class SplitMultiheadAttention(nn.Module):
    """What an ``nn.MultiheadAttention`` computes, by four Linear layers; takes over its weights.

    Args:
        fused: Without keys of its own.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.dropout = fused.num_heads, fused.dropout
        self.batch_first = fused.batch_first
        # nn.TransformerEncoderLayer looks for it, and leaves its fused path where there is none.
        self.in_proj_bias = None
        if fused.in_proj_weight is None:
            # Keys or values of another width than the queries.
            weights = [fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight]
        else:
            weights = list(fused.in_proj_weight.chunk(3))
        bias = fused.in_proj_bias
        biases = [None] * 3 if bias is None else list(bias.chunk(3))
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(fused.out_proj.weight, fused.out_proj.bias)
        self.train(fused.training)

    def forward(  # noqa: PLR0913, PLR0917 - torch's signature
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 - a hint: attn_mask says all of it
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as ``nn.MultiheadAttention`` documents it.

        Args:
            query: [b, t, e], or [t, b, e] where not ``batch_first``, or [t, e].
            key: The same with s for t.
            value: The same.
            key_padding_mask: [b, s]; True, or what is added to a key's scores.
            need_weights: Whether to return the shares.
            attn_mask: [t, s] or [b * heads, t, s]; True, or what is added to the scores.
            average_attn_weights: Return their mean over the heads.
            is_causal: No more than a hint, there as here.

        Returns:
            A tensor like ``query``, and the shares [b, t, s] or [b, heads, t, s].
        """
        single, axis = query.ndim == 2, 0 if self.batch_first else 1
        if single:
            query, key, value = (part.unsqueeze(axis) for part in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        heads = [
            self._heads(projected)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        ]
        scores = heads[0] @ heads[1].transpose(2, 3) * heads[0].shape[-1] ** -0.5
        if attn_mask is not None:
            scores = scores + _added(attn_mask, scores).reshape(-1, *_inner(attn_mask, scores))
        if key_padding_mask is not None:
            scores = scores + _added(key_padding_mask, scores)[:, None, None]
        shares = nn.functional.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        mixed = (shares @ heads[2]).transpose(1, 2).flatten(2)
        output: Tensor = self.out_proj(mixed if self.batch_first else mixed.transpose(0, 1))
        told = shares.mean(dim=1) if average_attn_weights else shares
        if single:
            output, told = output.squeeze(axis), told.squeeze(0)
        return output, told if need_weights else None

    def _heads(self, projected: Tensor) -> Tensor:
        """Lay out [b, t, e], or [t, b, e], as [b, heads, t, e / heads]."""
        batched = projected if self.batch_first else projected.transpose(0, 1)
        b, tokens, width = batched.shape
        heads = batched.reshape(b, tokens, self.num_heads, width // self.num_heads)
        return heads.transpose(1, 2)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """Turn a mask whose True forbids into what is added to scores."""
    if mask.dtype is not torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -torch.inf)


def _inner(mask: Tensor, scores: Tensor) -> tuple[int, ...]:
    """Return the axes of [t, s] or [b * heads, t, s] after the batch, as scores have them."""
    return (1 if mask.ndim == 2 else scores.shape[1], *mask.shape[-2:])
