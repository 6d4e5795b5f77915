"""2:4 masks: which weights survive, and that they stay the only ones.

The reduction axis of a weight is everything but its first axis, flattened: the inputs of a
Linear, and C*P*P of a patch embedding, which is what the GEMM behind each of them sums over.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.errors import SparsityError


def nm_mask(scores: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """Keep the ``n`` weights of the largest score in every ``m`` consecutive inputs.

    Ties keep the lower index, so equal scores always give equal masks.

    Args:
        scores: [out, ...]; the axes after the first are one reduction axis, flattened.
        n: Survivors a group.
        m: Group length.

    Returns:
        Bool, shaped as ``scores``, True where the weight survives.

    Raises:
        SparsityError: The reduction axis is no multiple of ``m``.

    Source:
        Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.

    >>> nm_mask(torch.tensor([[3.0, 9.0, 0.5, 4.0]])).tolist()
    [[False, True, False, True]]
    """
    if reason := unfit(scores, m):
        raise SparsityError(f"{n}:{m} {reason}")
    groups = scores.reshape(scores.shape[0], -1, m)
    kept = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, kept, True)
    return mask.reshape(scores.shape)


def unfit(weight: Tensor, m: int = 4) -> str:
    """Say why a weight cannot be pruned in groups of ``m``; empty when it can."""
    inputs = weight[0].numel()
    return "" if inputs % m == 0 else f"needs a multiple of {m} inputs, got {inputs}"


class Masks:
    """The masks of a network, by parameter name.

    Args:
        masks: True where a weight survives, shaped as the parameter.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)

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
            assert_nm(mask.to(torch.uint8), f"the mask of {name}", when)
            back = int((network.get_parameter(name).detach()[~mask] != 0).sum())
            if back:
                raise SparsityError(f"{when}: {back} pruned weights of {name} are not zero")

    def kept(self) -> dict[str, float]:
        """Return the share of surviving weights of each layer."""
        return {name: mask.float().mean().item() for name, mask in self.masks.items()}


def assert_nm(weight: Tensor, name: str, when: str, n: int = 2, m: int = 4) -> None:
    """Check that every ``m`` consecutive inputs hold at most ``n`` that are not zero.

    Raises:
        SparsityError: Naming the weight and how many groups hold more.
    """
    if reason := unfit(weight, m):
        raise SparsityError(f"{when}: {name} {reason}")
    held = (weight.reshape(-1, m) != 0).sum(dim=-1)
    broken = int((held > n).sum())
    if broken:
        raise SparsityError(f"{when}: {broken} of {len(held)} groups of {name} are not {n}:{m}")


@torch.no_grad()
def magnitude_masks(network: nn.Module, names: list[str]) -> Masks:
    """Mask the named layers by the size of their weights."""
    weights = {f"{name}.weight": network.get_submodule(name).weight for name in names}
    return Masks({name: nm_mask(weight.abs()) for name, weight in weights.items()})  # type: ignore[operator]
