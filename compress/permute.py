"""Channel permutations that leave the network as it is and let N:M masks keep more.

Two places of a Transformer block can be reordered for free: the hidden channels of the FFN (rows
of the first layer, columns of the second) and the channels of each head between value and
attention output. The order of the columns decides which weights compete for survival.

Source: Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021: greedy search over
pairs of stripes, all 35 ways to divide eight columns among two groups of four.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.errors import RecipeError
from compress.networks.network import Layer

# What the run's folder calls the gains of each layer.
PERMUTED = "permuted"
_GROUP = 4
# Pairs of groups looked at in one round; more of them are drawn by chance.
_PAIRS = 4096
_ROUNDS = 60
# Of intermediate results, so few that they stay in a processor's cache.
_ELEMENTS = 2**20
# All pairs of eight columns.
_TWOS = list(itertools.combinations(range(8), 2))
# Every way to give four of eight columns to the first group, counted once: column 0 stays there.
_WAYS = [
    (0, *rest, *(c for c in range(1, 8) if c not in rest))
    for rest in itertools.combinations(range(1, 8), 3)
]
# The same as four pairs of columns, places in _TWOS; the first two pairs are the first group.
_WAYS_AS_TWOS = [[_TWOS.index((way[at], way[at + 1])) for at in range(0, 8, 2)] for way in _WAYS]


@torch.no_grad()
def permute_channels(
    network: nn.Module,
    layers: Sequence[Layer],
    picture: Tensor,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Reorder channels of a network in place so that 2:4 masks keep more of its weights.

    Args:
        network: In evaluation mode; answers as before, but for rounding.
        layers: Of the network; pairs of the roles "FFN in" and "FFN out", "value" and "attention
            output" in the same module are reordered.
        picture: [b, h, w, 3], to check the answer with.
        progress: Called after each pair.

    Returns:
        By name of the reading layer, kept energy after over kept energy before; at least 1.

    Raises:
        RecipeError: No pair was found, or the network no longer answers as before.
    """
    before = network(picture)
    gained = {}
    for writer, reader, blocks in pairs(network, layers):
        weight = network.get_parameter(f"{reader}.weight")
        order = best_order(weight.double().square(), blocks)
        gained[reader] = _kept(weight[:, order]) / _kept(weight)
        weight.copy_(weight[:, order])
        written = network.get_submodule(writer)
        written.weight.copy_(written.weight[order])  # type: ignore[operator, index]
        if written.bias is not None:
            written.bias.copy_(written.bias[order])  # type: ignore[operator, index]
        progress()
    if not gained:
        raise RecipeError("prune.permute: this network has no layers whose channels are known")
    after = network(picture)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * before.abs().max().item()):
        raise RecipeError(
            "prune.permute: this network mixes the channels between two layers and answers "
            "differently when they are reordered. Set prune.permute to false."
        )
    return gained


def gained(gains: Mapping[str, float]) -> str:
    """Say what :func:`permute_channels` returned in a few words.

    >>> gained({"a": 1.03, "b": 1.01})
    '1.0 to 3.0 % more in 2 layers'
    """
    low, high = (100 * (one(gains.values()) - 1) for one in (min, max))
    return f"{low:.1f} to {high:.1f} % more in {len(gains)} layers"


@torch.no_grad()
def best_order(scores: Tensor, blocks: int = 1) -> Tensor:
    """Search for an order of the columns in which 2:4 groups keep the most.

    Args:
        scores: [out, in], not negative; what is kept is the sum of the survivors' scores.
        blocks: Columns move only inside each of so many equal blocks.

    Returns:
        [in] int64: where each new column comes from. Never keeps less than the given order.
    """
    size = scores.shape[1] // blocks
    generator = torch.Generator().manual_seed(0)
    parts = [
        _search(scores[:, first : first + size], generator) + first
        for first in range(0, scores.shape[1], size)
    ]
    return torch.cat(parts)


def _search(scores: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.arange(scores.shape[1], device=scores.device)
    groups = scores.shape[1] // _GROUP
    if groups < 2:
        return order
    ways = torch.tensor(_WAYS, device=scores.device)
    both = torch.combinations(torch.arange(groups))
    for _ in range(_ROUNDS):
        some = both[torch.randperm(len(both), generator=generator)[:_PAIRS]]
        columns = order.view(groups, _GROUP)[some.to(order.device)].flatten(1)
        gains, best = _gains(scores, columns)
        taken: set[int] = set()
        for index in gains.argsort(descending=True).tolist():
            if gains[index] <= 1e-9:
                break
            one, two = some[index].tolist()
            if one in taken or two in taken:
                continue
            taken |= {one, two}
            moved = columns[index][ways[best[index]]].view(2, _GROUP)
            order.view(groups, _GROUP)[torch.tensor([one, two], device=order.device)] = moved
        if not taken:
            break
    return order


def _gains(scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each pair of groups, [pairs, 8], what its best division gains, and which it is."""
    gains, best = [], []
    at_once = max(1, _ELEMENTS // (len(scores) * len(_TWOS)))
    rows = scores.T.contiguous()
    for part in torch.split(columns, at_once):
        kept = _kept_each_way(rows[part.T])
        value, way = kept.max(dim=1)
        # The first way leaves every column where it is.
        gains.append(value - kept[:, 0])
        best.append(way)
    return torch.cat(gains), torch.cat(best)


def _kept_each_way(columns: Tensor) -> Tensor:
    """Return what each division keeps, [pairs, ways], of columns [8, pairs, out]."""
    sums = [columns[one] + columns[two] for one, two in _TWOS]
    larger = [torch.maximum(columns[one], columns[two]) for one, two in _TWOS]

    def group(one: int, two: int) -> Tensor:
        # Of two twos: one of them, or the larger of each.
        kept = torch.maximum(sums[one], sums[two])
        return torch.maximum(kept, larger[one] + larger[two]).sum(dim=-1)

    return torch.stack([group(*way[:2]) + group(*way[2:]) for way in _WAYS_AS_TWOS], dim=1)


def _two_largest(values: Tensor) -> Tensor:
    """Return the sum of the two largest of the last axis's four."""
    one, two, three, four = values.unbind(-1)
    high, low = torch.maximum(one, two), torch.minimum(one, two)
    top, bottom = torch.maximum(three, four), torch.minimum(three, four)
    return torch.maximum(high + top, torch.maximum(high + low, top + bottom))


def _kept(weight: Tensor) -> float:
    return _two_largest(weight.double().square().reshape(len(weight), -1, _GROUP)).sum().item()


def pairs(network: nn.Module, layers: Sequence[Layer]) -> list[tuple[str, str, int]]:
    """Name the layers that write and read each set of channels, and its number of heads."""
    of_role = {(layer.name.rpartition(".")[0], layer.role): layer for layer in layers}
    found = []
    for (module, role), reader in of_role.items():
        source = {"FFN out": "FFN in", "attention output": "value"}.get(role)
        writer = of_role.get((module, source or ""))
        if writer is None or not reader.prune:
            continue
        known = network.get_submodule(reader.name)
        heads = _heads(network.get_submodule(module)) if role == "attention output" else 1
        if isinstance(known, nn.Linear) and heads and known.in_features % (heads * _GROUP) == 0:
            found.append((writer.name, reader.name, heads))
    return found


def _heads(attention: nn.Module) -> int:
    """Return how many heads an attention has; 0 where it does not say."""
    named = getattr(attention, "num_attention_heads", getattr(attention, "num_heads", 0))
    return named if isinstance(named, int) else 0
