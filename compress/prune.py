"""N:M masks: which weights survive, and that they stay the only ones.

The reduction axis of a weight is everything but its first axis, flattened: the inputs of a
Linear, and C*P*P of a patch embedding, which is what the GEMM behind each of them sums over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from compress.errors import SparsityError


@dataclass(frozen=True)
class Pattern:
    """Which weights of each group along the reduction axis survive.

    Args:
        name: As recipes, cards and reports call it.
        kept: Survivors a group.
        group: Neighbours that form a group.
        width: Neighbours that survive or go together.

    Source:
        2:4: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378. 4:8 in
        pairs is what sparse INT4 kernels read: one 2-bit index for each pair.
    """

    name: str
    kept: int
    group: int
    width: int = 1

    def mask(self, scores: Tensor) -> Tensor:
        """Keep the weights of the largest score; a unit's score is the sum of its weights'.

        Ties keep the lower index, so equal scores always give equal masks.

        Args:
            scores: [out, ...]; the axes after the first are one reduction axis, flattened.

        Returns:
            Bool, shaped as ``scores``, True where the weight survives.

        Raises:
            SparsityError: The reduction axis is no multiple of the group.

        >>> TWO_OF_FOUR.mask(torch.tensor([[3.0, 9.0, 0.5, 4.0]])).tolist()
        [[False, True, False, True]]
        """
        if reason := self.unfit(scores):
            raise SparsityError(f"{self.name} {reason}")
        units = scores.reshape(scores.shape[0], -1, self.group // self.width, self.width).sum(-1)
        kept = units.argsort(dim=-1, descending=True, stable=True)[..., : self.kept // self.width]
        mask = torch.zeros_like(units, dtype=torch.bool).scatter_(-1, kept, True)
        return mask.repeat_interleave(self.width, dim=-1).reshape(scores.shape)

    def unfit(self, weight: Tensor) -> str:
        """Say why a weight cannot be pruned in these groups; empty when it can."""
        inputs = weight[0].numel()
        return (
            ""
            if inputs % self.group == 0
            else f"needs a multiple of {self.group} inputs, got {inputs}"
        )

    def check(self, weight: Tensor, name: str, when: str) -> None:
        """Check that no group of ``weight`` [out, ...] holds more than may survive.

        Raises:
            SparsityError: Naming the weight and how many groups hold more.
        """
        if reason := self.unfit(weight):
            raise SparsityError(f"{when}: {name} {reason}")
        units = (weight.reshape(-1, self.group // self.width, self.width) != 0).any(dim=-1)
        broken = int((units.sum(dim=-1) > self.kept // self.width).sum())
        if broken:
            raise SparsityError(
                f"{when}: {broken} of {len(units)} groups of {name} are not {self.name}"
            )


TWO_OF_FOUR: Final = Pattern("2:4", kept=2, group=4)
PAIRS_OF_EIGHT: Final = Pattern("4:8", kept=4, group=8, width=2)
PATTERNS: Final = {pattern.name: pattern for pattern in (TWO_OF_FOUR, PAIRS_OF_EIGHT)}


class Masks:
    """The masks of a network, by parameter name.

    Args:
        masks: True where a weight survives, shaped as the parameter.
        pattern: That each of them follows.
    """

    def __init__(self, masks: Mapping[str, Tensor], pattern: Pattern = TWO_OF_FOUR) -> None:
        self.masks = dict(masks)
        self.pattern = pattern

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Zero what is masked. After every optimiser step, whose momentum moves such weights."""
        for name, mask in self.masks.items():
            network.get_parameter(name).mul_(mask)

    def verify(self, network: nn.Module, when: str) -> None:
        """Check that no masked weight has come back.

        Raises:
            SparsityError: Naming the layer, how many weights, and ``when`` it was looked at.
        """
        for name, mask in self.masks.items():
            self.pattern.check(mask.to(torch.uint8), f"the mask of {name}", when)
            back = int((network.get_parameter(name).detach()[~mask] != 0).sum())
            if back:
                raise SparsityError(f"{when}: {back} pruned weights of {name} are not zero")

    def kept(self) -> dict[str, float]:
        """Return the share of surviving weights of each layer."""
        return {name: mask.float().mean().item() for name, mask in self.masks.items()}


@torch.no_grad()
def magnitude_masks(network: nn.Module, names: list[str], pattern: Pattern = TWO_OF_FOUR) -> Masks:
    """Mask the named layers by the energy of their weights: the largest magnitudes survive."""
    masks = {}
    for name in names:
        weight = network.get_parameter(f"{name}.weight")
        # In float64 no square of a weight becomes zero.
        masks[f"{name}.weight"] = pattern.mask(weight.double().square())
    return Masks(masks, pattern)
