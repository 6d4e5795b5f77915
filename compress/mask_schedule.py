"""Masks that move while stage 1 trains, and are frozen before it ends.

A weight that is cut goes on being trained out of sight: its gradient is that of the zero in its
place (straight through). When masks are chosen anew, the largest weights survive, seen or not.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from compress.prune import Masks, Pattern, magnitude_masks


class MovingMasks:
    """Chooses the masks of a network again and again, then no more.

    Args:
        masks: That are changed in place.
        steps: Before which masks move; from this step on they stay.
        every: Steps between two choices.
        gradual: Begin with one unit of each group cut and cut more as steps pass, instead of
            the whole pattern from the start.

    Source:
        Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
        ICLR 2021, arXiv:2102.04010, without its decay term. Gradual: Zhu and Gupta, "To prune, or
        not to prune", arXiv:1710.01878, in whole units.
    """

    def __init__(self, masks: Masks, steps: int, every: int, *, gradual: bool) -> None:
        self.masks = masks
        self.steps = steps
        self.every = every
        self.gradual = gradual
        self.hidden: dict[str, Tensor] = {}

    @torch.no_grad()
    def start(self, network: nn.Module) -> None:
        """Hide what the first masks cut, or, resumed, do nothing."""
        if not self.hidden:
            self.hidden = {
                name: torch.zeros_like(network.get_parameter(name)) for name in self.masks.masks
            }
            self._choose(network, 0)

    @torch.no_grad()
    def after_step(self, network: nn.Module, step: int) -> None:
        """Cut again what the optimiser has moved; choose masks anew where it is time."""
        done = step + 1
        if done > self.steps:
            self.masks.apply(network)
        elif done % self.every == 0 or done == self.steps:
            self._choose(network, done)
        else:
            self._hide(network)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"masks": self.masks.masks, "hidden": self.hidden}

    def _choose(self, network: nn.Module, done: int) -> None:
        for name, hidden in self.hidden.items():
            network.get_parameter(name).add_(hidden)
            hidden.zero_()
        names = [name.removesuffix(".weight") for name in self.masks.masks]
        chosen = magnitude_masks(network, names, self._pattern(done))
        for name, mask in chosen.masks.items():
            self.masks.masks[name].copy_(mask)
        self._hide(network)

    def _hide(self, network: nn.Module) -> None:
        for name, hidden in self.hidden.items():
            weight, mask = network.get_parameter(name), self.masks.masks[name]
            hidden.add_(weight * ~mask)
            weight.mul_(mask)

    def _pattern(self, done: int) -> Pattern:
        """Return how much of each group is kept after ``done`` steps."""
        final = self.masks.pattern
        if not self.gradual:
            return final
        to_cut = (final.group - final.kept) // final.width
        cut = min(to_cut, 1 + math.floor(to_cut * done / max(1, self.steps)))
        return dataclasses.replace(final, kept=final.group - cut * final.width)
