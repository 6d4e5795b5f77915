"""Pruning against calibration pictures, layer by layer in running order.

Each layer sees what the already pruned layers before it make of the pictures. No gradient is
needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.networks.network import Layer
from compress.prune import TWO_OF_FOUR, Masks, Pattern

# Maps weight [out, in], Hessian [in, in] and pattern to the new weight and its mask.
Cut = Callable[[Tensor, Tensor, Pattern], tuple[Tensor, Tensor]]

# Added to the diagonal of the Hessian as a share of its mean, the source's value.
_DAMPING = 0.01
# Columns that are corrected together before the rest of the weight is.
_BLOCK = 64


class _Reached(Exception):  # noqa: N818 - ends a forward pass early; nothing failed
    """The layer that a forward pass was for has seen its input."""


@torch.no_grad()
def prune_layerwise(
    network: nn.Module,
    layers: Iterable[Layer],
    batches: list[Tensor],
    cut: Cut,
    pattern: Pattern = TWO_OF_FOUR,
    progress: Callable[[], object] = lambda: None,
) -> Masks:
    """Prune the layers in place, each by what it reads.

    Args:
        network: In evaluation mode; ``network(images)`` runs it.
        layers: To prune, in running order.
        batches: Calibration pictures, each [b, h, w, 3].
        cut: Prunes one weight, given the sum of ``x x^T`` over its layer's inputs.
        pattern: That each weight gets.
        progress: Called after each layer.
    """
    masks: dict[str, Tensor] = {}
    # Layers that read the same tensor in the same way share its Hessian, and one pass over the
    # pictures.
    groups: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in layers:
        windows = _windows(network.get_submodule(layer.name))
        groups.setdefault((layer.reads, *windows), []).append(layer)
    for group in groups.values():
        hessian = _hessian(network, network.get_submodule(group[0].name), batches)
        for layer in group:
            weight = network.get_parameter(f"{layer.name}.weight")
            rows, mask = cut(weight.flatten(1), hessian, pattern)
            weight.copy_(rows.reshape(weight.shape))
            masks[f"{layer.name}.weight"] = mask.reshape(weight.shape)
            progress()
    return Masks(masks, pattern)


def strongest_rows(weight: Tensor, hessian: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Keep the weights that weigh most in the output: magnitude times the norm of the input.

    Args:
        weight: [out, in].
        hessian: [in, in], the sum of ``x x^T`` over the layer's inputs.
        pattern: To follow.

    Returns:
        The weight [out, in], zero where cut, and its mask.

    Source:
        Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda),
        ICLR 2024, arXiv:2306.11695, compared within each group.
    """
    # Squares order a group as the source's product does, and add up over a pair.
    mask = pattern.mask(weight.double().square() * hessian.diagonal().double())
    return weight * mask, mask


def corrected_rows(weight: Tensor, hessian: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Prune one weight and let the survivors make up for what is cut.

    Args:
        weight: [out, in].
        hessian: [in, in], the sum of ``x x^T`` over the layer's inputs.
        pattern: To follow.

    Returns:
        The new weight [out, in], zero where cut, and its mask.

    Source:
        Frantar and Alistarh, "SparseGPT", ICML 2023, arXiv:2301.00774, algorithm 1. Pairs are
        scored by cutting their second weight after the first.
    """
    rows, mask = weight.double().clone(), torch.ones_like(weight, dtype=torch.bool)
    factor = _inverse_factor(hessian)
    for first in range(0, rows.shape[1], _BLOCK):
        last = min(first + _BLOCK, rows.shape[1])
        errors = rows.new_zeros(len(rows), last - first)
        for column in range(first, last):
            if column % pattern.group == 0:
                group = slice(column, column + pattern.group)
                loss = _cutting_loss(rows[:, group], factor[group, group], pattern.width)
                mask[:, group] = pattern.mask(loss)
            kept = rows[:, column] * mask[:, column]
            error = (rows[:, column] - kept) / factor[column, column]
            rows[:, column] = kept
            rows[:, column + 1 : last] -= error[:, None] * factor[column, column + 1 : last]
            errors[:, column - first] = error
        rows[:, last:] -= errors @ factor[first:last, last:]
    return (rows * mask).to(weight.dtype), mask


def _cutting_loss(rows: Tensor, factor: Tensor, width: int) -> Tensor:
    """Return what the output loses by each weight of a group, given that the others may adapt.

    Weights of a unit are cut one after the other, so each sees the correction for those before.
    """
    loss, left = torch.empty_like(rows), rows.clone()
    for offset in range(width):
        columns = torch.arange(offset, rows.shape[1], width)
        errors = left[:, columns] / factor[columns, columns]
        loss[:, columns] = errors**2
        for later in range(offset + 1, width):
            left[:, columns + later - offset] -= errors * factor[columns, columns + later - offset]
    return loss


def damped(hessian: Tensor) -> Tensor:
    """Return a Hessian [in, in] that can be inverted, float64."""
    firm = hessian.double().clone()
    # An input that is always zero (a constant border, say) gives no information.
    firm.diagonal()[firm.diagonal() == 0] = 1
    firm.diagonal().add_(_DAMPING * firm.diagonal().mean())
    return firm


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the damped inverse Hessian, float64."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _hessian(network: nn.Module, module: nn.Module, batches: list[Tensor]) -> Tensor:
    weight = module.get_parameter("weight").flatten(1)
    total = weight.new_zeros(weight.shape[1], weight.shape[1])

    def collect(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = reduction_rows(module, inputs[0])
        total.addmm_(rows.T, rows)
        raise _Reached

    handle = module.register_forward_pre_hook(collect)
    try:
        for batch in batches:
            with contextlib.suppress(_Reached):
                network(batch)
    finally:
        handle.remove()
    return total


def reduction_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """Lay out a layer's input as the left matrix of its GEMM.

    Args:
        module: A Linear or a Conv2d.
        inputs: What it is called with.

    Returns:
        [rows, in], float32, ``in`` being the reduction axis.
    """
    if isinstance(module, nn.Conv2d):
        if isinstance(module.padding, str):
            inputs = F.pad(inputs, _around(module))
        padding = 0 if isinstance(module.padding, str) else module.padding
        kernel_size, stride, dilation = module.kernel_size, module.stride, module.dilation
        columns = F.unfold(inputs, kernel_size, dilation, padding, stride)
        return columns.transpose(1, 2).flatten(0, 1).float()
    return inputs.flatten(0, -2).float()


def _windows(module: nn.Module) -> tuple[Any, ...]:
    """Return what decides which values of its input make up one row of a layer's GEMM."""
    if isinstance(module, nn.Conv2d):
        return (module.kernel_size, module.stride, module.padding, module.dilation)
    return ()


def _around(module: nn.Conv2d) -> list[int]:
    """Return what the padding "same" or "valid" adds: left, right, above and below."""
    if module.padding == "valid":
        return [0, 0, 0, 0]
    sizes = zip(reversed(module.kernel_size), reversed(module.dilation), strict=True)
    totals = [dilation * (size - 1) for size, dilation in sizes]
    return [part for total in totals for part in (total // 2, total - total // 2)]
