"""Masks and weights of one layer from what it reads, by alternating directions (ADMM)."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.prune import Pattern
from compress.reconstruct import corrected_rows, damped

# Of the penalty that ties the free weights to the pruned ones: where it begins, for inputs of
# unit energy, and how it grows when at most this share of the mask changed since the last look.
_FIRST_PENALTY = 0.03
_GROWTH = ((0.001, 1.05), (0.01, 1.1), (0.05, 1.2), (1.0, 1.3))
_LOOK_EVERY = 3
_MOST_STEPS = 300
# Elements of the linear systems that are solved at once: 256 MB in float64.
_AT_ONCE = 2**25


def optimal_rows(weight: Tensor, hessian: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Choose the mask of a whole weight together, then the survivors that serve it best.

    Free weights that keep the layer's output and pruned ones that keep the pattern are drawn
    towards each other until the mask no longer moves. Given the mask, the survivors of each row
    solve its least squares exactly. A row that the mask of
    :func:`compress.reconstruct.corrected_rows` serves better takes that, so none is worse.

    Args:
        weight: [out, in].
        hessian: [in, in], the sum of ``x x^T`` over the layer's inputs.
        pattern: To follow.

    Returns:
        The new weight [out, in], zero where cut, and its mask.

    Source:
        Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
        Language Models", NeurIPS 2024, arXiv:2406.07831, sections 3.1 and 3.2, with a direct
        solution in place of conjugate gradients.
    """
    exact = damped(hessian)
    target = exact @ weight.double().T
    best_rows, best_mask = torch.zeros_like(target.T), torch.zeros_like(weight, dtype=torch.bool)
    least = torch.full_like(best_rows[:, 0], torch.inf)
    _, one_by_one = corrected_rows(weight, hessian, pattern)
    for mask in (_settled_mask(weight.double(), exact, pattern), one_by_one):
        rows = _least_squares(mask, exact, target)
        difference = rows - weight.double()
        lost = ((difference @ exact) * difference).sum(dim=1)
        better = (lost < least)[:, None]
        best_rows, best_mask = rows.where(better, best_rows), mask.where(better, best_mask)
        least = torch.minimum(lost, least)
    return best_rows.to(weight.dtype), best_mask


def _settled_mask(weight: Tensor, hessian: Tensor, pattern: Pattern) -> Tensor:
    """Alternate between output and pattern; return the mask [out, in] on which both agree."""
    # In inputs of unit energy, so that one penalty suits all of them.
    width = hessian.diagonal().rsqrt()
    values, vectors = torch.linalg.eigh(hessian * width[:, None] * width)
    pruned = weight.T / width[:, None]
    wanted = (vectors * values) @ (vectors.T @ pruned)
    pull = torch.zeros_like(pruned)
    penalty, mask = _FIRST_PENALTY, torch.ones_like(weight, dtype=torch.bool)
    for step in range(1, _MOST_STEPS + 1):
        drawn = vectors.T @ (wanted - pull + penalty * pruned)
        free = vectors @ (drawn / (values + penalty)[:, None])
        near = free + pull / penalty
        found = pattern.mask(near.T.square())
        pruned = near * found.T
        pull = pull + penalty * (free - pruned)
        if step % _LOOK_EVERY:
            continue
        changed = float((found != mask).double().mean())
        mask = found
        if not changed:
            break
        penalty *= next(growth for share, growth in _GROWTH if changed <= share)
    return mask


def _least_squares(mask: Tensor, hessian: Tensor, target: Tensor) -> Tensor:
    """Return the rows [out, in] that lose least, each with its own survivors."""
    kept = int(mask[0].sum())
    places = mask.nonzero()[:, 1].reshape(len(mask), kept)
    rows = hessian.new_zeros(mask.shape)
    at_once = max(1, _AT_ONCE // kept**2)
    for first in range(0, len(mask), at_once):
        some = slice(first, first + at_once)
        chosen = places[some]
        systems = hessian[chosen[:, :, None], chosen[:, None, :]]
        sides = target.T[some].gather(1, chosen)
        factor = torch.linalg.cholesky(systems)
        solved = torch.cholesky_solve(sides[:, :, None], factor)[:, :, 0]
        rows[some] = rows[some].scatter(1, chosen, solved)
    return rows
