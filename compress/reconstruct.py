"""Masks and weights chosen together, so that each layer's output changes least.

Works layer by layer in running order: each layer sees what the already pruned layers before it
make of the calibration pictures. No gradient is needed.

Source: Frantar and Alistarh, "SparseGPT", ICML 2023, arXiv:2301.00774, algorithm 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.networks.network import Layer
from compress.prune import Masks, nm_mask

# Added to the diagonal of the Hessian as a share of its mean, the source's value.
_DAMPING = 0.01
# Columns that are corrected together before the rest of the weight is.
_BLOCK = 64


class _Reached(Exception):  # noqa: N818 - ends a forward pass early; nothing failed
    """The layer that a forward pass was for has seen its input."""


@torch.no_grad()
def reconstruct(
    network: nn.Module,
    layers: Iterable[Layer],
    batches: list[Tensor],
    progress: Callable[[], object] = lambda: None,
) -> Masks:
    """Prune the layers in place and correct their surviving weights.

    Args:
        network: In evaluation mode; ``network(images)`` runs it.
        layers: To prune, in running order.
        batches: Calibration pictures, each [b, h, w, 3].
        progress: Called after each layer.
    """
    masks: dict[str, Tensor] = {}
    # Layers that read the same tensor share its Hessian, and one pass over the pictures.
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.reads, []).append(layer)
    for group in groups.values():
        hessian = _hessian(network, network.get_submodule(group[0].name), batches)
        for layer in group:
            weight = network.get_parameter(f"{layer.name}.weight")
            rows, mask = corrected_rows(weight.flatten(1), hessian)
            weight.copy_(rows.reshape(weight.shape))
            masks[f"{layer.name}.weight"] = mask.reshape(weight.shape)
            progress()
    return Masks(masks)


def corrected_rows(weight: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Prune one weight 2:4 and let the survivors make up for what is cut.

    Args:
        weight: [out, in].
        hessian: [in, in], the sum of ``x x^T`` over the layer's inputs.

    Returns:
        The new weight [out, in], zero where cut, and its mask.
    """
    rows, mask = weight.double().clone(), torch.ones_like(weight, dtype=torch.bool)
    factor = _inverse_factor(hessian)
    for first in range(0, rows.shape[1], _BLOCK):
        last = min(first + _BLOCK, rows.shape[1])
        errors = rows.new_zeros(len(rows), last - first)
        for column in range(first, last):
            if column % 4 == 0:
                group = slice(column, column + 4)
                # What the output loses when a weight is cut, given that the others may adapt.
                loss = (rows[:, group] / factor.diagonal()[group]) ** 2
                mask[:, group] = nm_mask(loss)
            kept = rows[:, column] * mask[:, column]
            error = (rows[:, column] - kept) / factor[column, column]
            rows[:, column] = kept
            rows[:, column + 1 : last] -= error[:, None] * factor[column, column + 1 : last]
            errors[:, column - first] = error
        rows[:, last:] -= errors @ factor[first:last, last:]
    return (rows * mask).to(weight.dtype), mask


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the damped inverse Hessian, float64."""
    damped = hessian.double().clone()
    # An input that is always zero (a constant border, say) gives no information.
    damped.diagonal()[damped.diagonal() == 0] = 1
    damped.diagonal().add_(_DAMPING * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
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
        # All padding and stride here are numbers: the families' patch embeddings have no "same".
        columns = F.unfold(
            inputs,
            kernel_size=module.kernel_size,
            stride=module.stride,
            padding=module.padding,  # type: ignore[arg-type]
        )
        return columns.transpose(1, 2).flatten(0, 1).float()
    return inputs.flatten(0, -2).float()
