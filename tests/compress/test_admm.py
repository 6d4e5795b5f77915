import itertools

import pytest
import torch

from compress import admm
from compress.admm import optimal_rows
from compress.prune import PATTERNS, TWO_OF_FOUR
from compress.reconstruct import corrected_rows, damped
from tests.compress.test_reconstruct import correlated


def problem(columns: int, rows: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = correlated(8 * columns, columns, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator), inputs.T @ inputs


def lost(rows: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor) -> float:
    difference = rows - weight
    return float(((difference @ damped(hessian)) * difference).sum())


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("seed", range(3))
def test_choosing_together_loses_less_than_column_by_column(pattern, seed):
    weight, hessian = problem(64, seed=seed)

    together, _ = optimal_rows(weight, hessian, pattern)
    one_by_one, _ = corrected_rows(weight, hessian, pattern)

    assert lost(together, weight, hessian) < lost(one_by_one, weight, hessian)


def test_the_survivors_cannot_be_moved_to_lose_less():
    weight, hessian = problem(32)

    rows, mask = optimal_rows(weight, hessian, TWO_OF_FOUR)

    slope = (rows - weight) @ damped(hessian)
    # Zero but for rounding where a weight may move, not where it was cut.
    assert (slope * mask).abs().max() < 1e-9 * slope.abs().max()


def test_rows_that_are_solved_in_parts_are_those_solved_at_once(monkeypatch):
    weight, hessian = problem(32, rows=7)
    at_once, _ = optimal_rows(weight, hessian, TWO_OF_FOUR)

    # Two rows of 16 survivors each.
    monkeypatch.setattr(admm, "_AT_ONCE", 2 * 16**2)
    in_parts, _ = optimal_rows(weight, hessian, TWO_OF_FOUR)

    assert torch.allclose(at_once, in_parts, rtol=0, atol=1e-12)


def test_on_a_small_weight_it_comes_near_the_best_of_all_masks():
    # Two groups of four: 36 masks, each with its own least squares.
    weight, hessian = problem(8, rows=12)
    pairs = [[i in kept for i in range(4)] for kept in itertools.combinations(range(4), 2)]
    masks = torch.tensor([left + right for left, right in itertools.product(pairs, pairs)])
    exact = damped(hessian)

    rows, _ = optimal_rows(weight, hessian, TWO_OF_FOUR)

    best = 0.0
    for row in weight:
        tried = [admm._least_squares(mask[None], exact, exact @ row[:, None]) for mask in masks]
        best += min(lost(found, row[None], hessian) for found in tried)
    cut = weight * TWO_OF_FOUR.mask(weight.abs())
    # A heuristic, so not equal; magnitude loses many times as much.
    assert lost(rows, weight, hessian) < 1.5 * best < lost(cut, weight, hessian) / 2
