import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.prune import assert_nm, magnitude_masks, nm_mask
from compress.reconstruct import corrected_rows, reconstruct, reduction_rows
from tests.compress import tiny


def correlated(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Inputs that a few hidden causes explain: what one column says, others say as well."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, columns // 4, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns // 4, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return causes @ mixing + 0.3 * noise


def slow_corrected_rows(weight: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal brain surgery, one column after the other, each inverse computed anew.

    Cutting column i changes the columns after it by -w_i / G_00 * G_0, where G is the inverse
    of the Hessian of column i and those after it; the loss of cutting it is w_i^2 / G_00.
    """
    hessian = hessian + np.eye(len(hessian)) * 0.01 * hessian.diagonal().mean()
    inverses = [np.linalg.inv(hessian[i:, i:]) for i in range(len(hessian))]
    rows, mask = weight.copy(), np.zeros(weight.shape, dtype=bool)
    for r in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            if i % 4 == 0:
                losses = {j: rows[r, j] ** 2 / inverses[j][0, 0] for j in range(i, i + 4)}
                for j in sorted(losses, key=lambda j: (-losses[j], j))[:2]:
                    mask[r, j] = True
            if not mask[r, i]:
                rows[r, i:] -= rows[r, i] / inverses[i][0, 0] * inverses[i][0]
                rows[r, i] = 0
    return rows, mask


def test_correction_equals_brain_surgery_column_by_column():
    # 136 columns are two blocks of 64 and a part of a third.
    inputs = correlated(400, 136)
    weight = torch.randn(3, 136, dtype=torch.float64)
    hessian = inputs.T @ inputs

    rows, mask = corrected_rows(weight, hessian)
    slow_rows, slow_mask = slow_corrected_rows(weight.numpy(), hessian.numpy())

    assert np.array_equal(mask.numpy(), slow_mask)
    # Both are float64; only the order of the sums differs.
    assert np.abs(rows.numpy() - slow_rows).max() < 1e-8


def test_correction_disturbs_the_output_less_than_magnitude():
    inputs = correlated(512, 64)
    weight = torch.randn(16, 64, dtype=torch.float64)

    rows, mask = corrected_rows(weight, inputs.T @ inputs)

    exact = inputs @ weight.T
    corrected = (inputs @ rows.T - exact).norm()
    by_magnitude = (inputs @ (weight * nm_mask(weight.abs())).T - exact).norm()
    # Correlated inputs let the survivors take over most of what is cut.
    assert corrected < 0.6 * by_magnitude
    assert (mask.reshape(-1, 4).sum(dim=1) == 2).all()
    assert torch.equal(rows, rows * mask)


def test_with_independent_inputs_of_one_size_magnitude_is_already_best():
    weight = torch.randn(8, 32, dtype=torch.float64)

    rows, mask = corrected_rows(weight, torch.eye(32, dtype=torch.float64))

    assert torch.equal(mask, nm_mask(weight.abs()))
    assert torch.allclose(rows, weight * mask, rtol=0, atol=1e-12)


def test_an_input_that_is_always_zero_does_no_harm():
    inputs = correlated(200, 16)
    inputs[:, [3, 8]] = 0

    rows, _ = corrected_rows(torch.randn(4, 16, dtype=torch.float64), inputs.T @ inputs)

    assert rows.isfinite().all()


def test_the_result_is_exactly_two_of_four_everywhere(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]

    masks = reconstruct(network, layers, [tiny.pictures(16)])

    for layer in layers:
        weight = network.get_parameter(f"{layer.name}.weight").detach()
        assert_nm(weight, layer.name, "after reconstruction")
        mask = masks.masks[f"{layer.name}.weight"]
        assert (mask.reshape(-1, 4).sum(dim=1) == 2).all()
        assert torch.equal(weight, weight * mask)


def test_a_reconstructed_network_is_closer_to_the_dense_one(network):
    # Features come from the pictures' few colours, so they are correlated as real ones are.
    calibration, held_out = tiny.pictures(64), tiny.pictures(64, seed=1)
    layers = [layer for layer in tiny.layers(network) if layer.prune]
    cut, corrected = copy.deepcopy(network), copy.deepcopy(network)

    magnitude_masks(cut, [layer.name for layer in layers]).apply(cut)
    reconstruct(corrected, layers, [calibration])

    with torch.inference_mode():
        exact = network(held_out)
        assert (corrected(held_out) - exact).norm() < (cut(held_out) - exact).norm()


def test_layers_that_read_the_same_tensor_share_one_pass(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]
    passes = []
    network.register_forward_pre_hook(lambda _module, inputs: passes.append(len(inputs[0])))

    reconstruct(network, layers, [tiny.pictures(2), tiny.pictures(3, seed=1)])

    # Patch embedding, and in each of two blocks: q with k and v, attention output, two of FFN.
    assert passes == [2, 3] * (1 + 2 * 4)


def test_each_layer_sees_what_the_pruned_layers_before_it_compute(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]
    images = tiny.pictures(8)
    last = next(layer for layer in layers if layer.name.endswith("layers.1.mlp.fc2"))
    before = copy.deepcopy(network)

    reconstruct(network, layers, [images])

    seen = []
    hook = network.get_submodule(last.name).register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].detach())
    )
    with torch.inference_mode():
        network(images)
    hook.remove()
    rows = seen[0].flatten(0, -2)
    expected, _ = corrected_rows(before.get_parameter(f"{last.name}.weight").data, rows.T @ rows)
    actual = network.get_parameter(f"{last.name}.weight").detach()
    assert torch.allclose(actual, expected, rtol=0, atol=1e-5)


def test_no_hook_stays_behind(network):
    layers = [layer for layer in tiny.layers(network) if layer.prune]

    reconstruct(network, layers, [tiny.pictures(2)])

    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (1, 1)])
def test_reduction_rows_times_weight_is_the_convolution(stride, padding):
    conv = nn.Conv2d(3, 5, kernel_size=2, stride=stride, padding=padding, bias=False)
    images = torch.randn(2, 3, 6, 6)

    rows = reduction_rows(conv, images) @ conv.weight.flatten(1).T

    expected = F.conv2d(images, conv.weight, stride=stride, padding=padding)
    assert torch.allclose(rows, expected.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-5)


def test_reduction_rows_times_weight_is_the_linear_layer():
    linear = nn.Linear(6, 4, bias=False)
    inputs = torch.randn(2, 5, 6)

    rows = reduction_rows(linear, inputs) @ linear.weight.T

    assert torch.allclose(rows, linear(inputs).flatten(0, 1), atol=1e-6)
