import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.admm import optimal_rows
from compress.prune import PATTERNS, TWO_OF_FOUR, Pattern, magnitude_masks
from compress.reconstruct import (
    corrected_rows,
    prune_layerwise,
    reduction_rows,
    strongest_rows,
)
from tests.compress import tiny


def correlated(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Inputs that a few hidden causes explain: what one column says, others say as well."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, columns // 4, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns // 4, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return causes @ mixing + 0.3 * noise


def slow_corrected_rows(
    weight: np.ndarray, hessian: np.ndarray, pattern: Pattern
) -> tuple[np.ndarray, np.ndarray]:
    """Optimal brain surgery, one column after the other, each inverse computed anew.

    Cutting column i changes the columns after it by -w_i / G_00 * G_0, where G is the inverse
    of the Hessian of column i and those after it; the loss of cutting the columns u that begin
    at i is w_u G_uu^-1 w_u.
    """
    width = pattern.width
    hessian = hessian + np.eye(len(hessian)) * 0.01 * hessian.diagonal().mean()
    inverses = [np.linalg.inv(hessian[i:, i:]) for i in range(len(hessian))]
    rows, mask = weight.copy(), np.zeros(weight.shape, dtype=bool)
    for r in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            if i % pattern.group == 0:
                losses = {
                    j: rows[r, j : j + width]
                    @ np.linalg.inv(inverses[j][:width, :width])
                    @ rows[r, j : j + width]
                    for j in range(i, i + pattern.group, width)
                }
                best = sorted(losses, key=lambda j: (-losses[j], j))
                for j in best[: pattern.kept // width]:
                    mask[r, j : j + width] = True
            if not mask[r, i]:
                rows[r, i:] -= rows[r, i] / inverses[i][0, 0] * inverses[i][0]
                rows[r, i] = 0
    return rows, mask


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_correction_equals_brain_surgery_column_by_column(pattern):
    # 136 columns are two blocks of 64 and a part of a third.
    inputs = correlated(400, 136)
    weight = torch.randn(3, 136, dtype=torch.float64)
    hessian = inputs.T @ inputs

    rows, mask = corrected_rows(weight, hessian, pattern)
    slow_rows, slow_mask = slow_corrected_rows(weight.numpy(), hessian.numpy(), pattern)

    assert np.array_equal(mask.numpy(), slow_mask)
    # Both are float64; only the order of the sums differs.
    assert np.abs(rows.numpy() - slow_rows).max() < 1e-8


def test_correction_disturbs_the_output_less_than_magnitude():
    inputs = correlated(512, 64)
    weight = torch.randn(16, 64, dtype=torch.float64)

    rows, mask = corrected_rows(weight, inputs.T @ inputs, TWO_OF_FOUR)

    exact = inputs @ weight.T
    corrected = (inputs @ rows.T - exact).norm()
    by_magnitude = (inputs @ (weight * TWO_OF_FOUR.mask(weight.abs())).T - exact).norm()
    # Correlated inputs let the survivors take over most of what is cut.
    assert corrected < 0.6 * by_magnitude
    assert (mask.reshape(-1, 4).sum(dim=1) == 2).all()
    assert torch.equal(rows, rows * mask)


@pytest.mark.parametrize("cut", [corrected_rows, optimal_rows])
def test_with_independent_inputs_of_one_size_magnitude_is_already_best(cut):
    weight = torch.randn(8, 32, dtype=torch.float64)

    rows, mask = cut(weight, torch.eye(32, dtype=torch.float64), TWO_OF_FOUR)

    assert torch.equal(mask, TWO_OF_FOUR.mask(weight.abs()))
    assert torch.allclose(rows, weight * mask, rtol=0, atol=1e-12)


def test_the_strongest_weights_are_those_that_move_the_output_most_by_themselves():
    inputs = torch.randn(300, 16, dtype=torch.float64) * torch.logspace(-2, 2, 16)
    weight = torch.randn(5, 16, dtype=torch.float64)

    rows, mask = strongest_rows(weight, inputs.T @ inputs, TWO_OF_FOUR)

    moved = weight.abs() * inputs.norm(dim=0)
    assert torch.equal(mask, TWO_OF_FOUR.mask(moved))
    assert not torch.equal(mask, TWO_OF_FOUR.mask(weight.abs()))
    assert torch.equal(rows, weight * mask)


@pytest.mark.parametrize("cut", [corrected_rows, optimal_rows])
def test_an_input_that_is_always_zero_does_no_harm(cut):
    inputs = correlated(200, 16)
    inputs[:, [3, 8]] = 0

    rows, _ = cut(torch.randn(4, 16, dtype=torch.float64), inputs.T @ inputs, TWO_OF_FOUR)

    assert rows.isfinite().all()


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("cut", [corrected_rows, strongest_rows, optimal_rows])
def test_the_result_follows_the_pattern_everywhere(cut, pattern):
    # 2 x 2 patches of 4 channels would do; 3 channels are 12 inputs, no multiple of eight.
    network = tiny.network()
    layers = [
        layer
        for layer in tiny.layers(network)
        if layer.prune and not pattern.unfit(network.get_parameter(f"{layer.name}.weight"))
    ]

    masks = prune_layerwise(network, layers, [tiny.pictures(16)], cut, pattern)

    for layer in layers:
        weight = network.get_parameter(f"{layer.name}.weight").detach()
        pattern.check(weight, layer.name, "after pruning")
        mask = masks.masks[f"{layer.name}.weight"]
        assert (mask.reshape(-1, pattern.group).sum(dim=1) == pattern.kept).all()
        assert torch.equal(weight, weight * mask)


def test_a_reconstructed_network_is_closer_to_the_dense_one(network):
    # Features come from the pictures' few colours, so they are correlated as real ones are.
    calibration, held_out = tiny.pictures(64), tiny.pictures(64, seed=1)
    layers = [layer for layer in tiny.layers(network) if layer.prune]
    cut, corrected = copy.deepcopy(network), copy.deepcopy(network)

    magnitude_masks(cut, [layer.name for layer in layers]).apply(cut)
    prune_layerwise(corrected, layers, [calibration], corrected_rows)

    with torch.inference_mode():
        exact = network(held_out)
        assert (corrected(held_out) - exact).norm() < (cut(held_out) - exact).norm()


def test_layers_that_read_the_same_tensor_share_one_pass(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]
    passes = []
    network.register_forward_pre_hook(lambda _module, inputs: passes.append(len(inputs[0])))

    prune_layerwise(network, layers, [tiny.pictures(2), tiny.pictures(3, seed=1)], corrected_rows)

    # Patch embedding, and in each of two blocks: q with k and v, attention output, two of FFN.
    assert passes == [2, 3] * (1 + 2 * 4)


def test_each_layer_sees_what_the_pruned_layers_before_it_compute(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]
    images = tiny.pictures(8)
    last = next(layer for layer in layers if layer.name.endswith("layers.1.mlp.fc2"))
    before = copy.deepcopy(network)

    prune_layerwise(network, layers, [images], corrected_rows)

    seen = []
    hook = network.get_submodule(last.name).register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].detach())
    )
    with torch.inference_mode():
        network(images)
    hook.remove()
    rows = seen[0].flatten(0, -2)
    expected, _ = corrected_rows(
        before.get_parameter(f"{last.name}.weight").data, rows.T @ rows, TWO_OF_FOUR
    )
    actual = network.get_parameter(f"{last.name}.weight").detach()
    assert torch.allclose(actual, expected, rtol=0, atol=1e-5)


def test_no_hook_stays_behind(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]

    prune_layerwise(network, layers, [tiny.pictures(2)], corrected_rows)

    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (2, {"stride": 2}),
        (2, {"padding": 1}),
        (3, {"padding": 2, "dilation": 2}),
        ((5, 3), {"padding": "same"}),
        (3, {"padding": "valid"}),
    ],
)
def test_reduction_rows_times_weight_is_the_convolution(kernel, options):
    conv = nn.Conv2d(3, 5, kernel, bias=False, **options)
    images = torch.randn(2, 3, 6, 6)

    rows = reduction_rows(conv, images) @ conv.weight.flatten(1).T

    expected = F.conv2d(images, conv.weight, **options)
    assert torch.allclose(rows, expected.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-5)


def test_reduction_rows_times_weight_is_the_linear_layer():
    linear = nn.Linear(6, 4, bias=False)
    inputs = torch.randn(2, 5, 6)

    rows = reduction_rows(linear, inputs) @ linear.weight.T

    assert torch.allclose(rows, linear(inputs).flatten(0, 1), atol=1e-6)
