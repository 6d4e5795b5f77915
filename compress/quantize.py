"""INT8 fake quantisation: symmetric, weights per output channel, activations per tensor.

In training and evaluation the numbers are rounded by torch's own kernels; under export the same
modules emit explicit QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

QMIN, QMAX = -128, 127
# Below this a scale would underflow when it is inverted; a constant zero tensor gets it.
_SMALLEST_SCALE = 1e-8


class _RoundToGrid(torch.autograd.Function):
    """Round to ``scale * [-128, 127]``; gradients as in LSQ.

    Straight through for the input inside the range, zero outside; the scale learns from the
    rounding error inside and from the range's ends outside.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153, eq. 3-5.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(values, scale)
        zero_point = torch.zeros((), dtype=torch.int32, device=values.device)
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(
            values, scale.detach(), zero_point, QMIN, QMAX
        )
        return rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        values, scale = ctx.saved_tensors
        steps = values / scale
        inside = (steps >= QMIN - 0.5) & (steps <= QMAX + 0.5)
        to_values = gradient * inside
        if not ctx.needs_input_grad[1]:
            return to_values, None
        slope = torch.where(inside, steps.round() - steps, steps.clamp(QMIN, QMAX))
        # The source's factor (section 2.2). Adam divides it out of the scale's own step; it
        # keeps this sum over a whole tensor from ruling the clipped norm of all gradients.
        balance = (values.numel() * QMAX) ** -0.5
        return to_values, ((gradient * slope).sum() * balance).reshape(scale.shape)


class ActivationQuantizer(nn.Module):
    """Fake quantisation of an activation, one scale for the tensor.

    Passes tensors on unchanged until :func:`switch_on`, after calibration.

    Args:
        learned: Whether training moves the scale.
    """

    frozen_scale: Tensor

    def __init__(self, learned: bool) -> None:
        super().__init__()
        # Its logarithm is trained: a step then changes the scale by a share of itself, however
        # small it is, and it stays positive.
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.register_buffer("frozen_scale", torch.empty(()), persistent=False)
        self.on = False

    @property
    def scale(self) -> Tensor:
        """The width of one step of the grid."""
        return self.log_scale.exp()

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` rounded to the grid; shape and meaning stay."""
        if torch.compiler.is_exporting():
            return _export_q_dq(values, self.frozen_scale, axis=None)
        if not self.on:
            return values
        rounded: Tensor = _RoundToGrid.apply(values.float(), self.scale)  # type: ignore[no-untyped-call]
        return rounded

    @torch.no_grad()
    def set_range(self, amax: float) -> None:
        """Make ``amax`` the largest magnitude that is represented without clipping."""
        self.log_scale.fill_(math.log(max(amax / QMAX, _SMALLEST_SCALE)))


class WeightQuantizer(nn.Module):
    """Fake quantisation of a weight, one scale an output channel, from its largest value."""

    frozen_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frozen_scale", torch.empty(0), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` [out, ...] rounded to its grid; zeros stay exactly zero."""
        if torch.compiler.is_exporting():
            return _export_q_dq(weight, self.frozen_scale, axis=0)
        scale = weight_scale(weight)
        zero_point = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(
            weight, scale, zero_point, 0, QMIN, QMAX
        )
        return rounded


def weight_scale(weight: Tensor) -> Tensor:
    """Return the scale of each output channel of ``weight`` [out, ...]: [out] float32."""
    amax = weight.detach().flatten(1).abs().amax(dim=1)
    return (amax / QMAX).clamp(min=_SMALLEST_SCALE)


class QuantLinear(nn.Linear):
    """A Linear with input and weight rounded to INT8; shares the parameters it is made from."""

    def __init__(self, linear: nn.Linear, input_quantizer: ActivationQuantizer) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.input_quantizer, self.weight_quantizer = input_quantizer, WeightQuantizer()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map [..., in] to [..., out]."""
        weight = self.weight_quantizer(self.weight)
        return nn.functional.linear(self.input_quantizer(input), weight, self.bias)


class QuantConv2d(nn.Conv2d):
    """A Conv2d with input and weight rounded to INT8; shares the parameters it is made from."""

    def __init__(self, conv: nn.Conv2d, input_quantizer: ActivationQuantizer) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(
            {key: value for key, value in conv.__dict__.items() if not key.startswith("_")}
        )
        self.padding_mode, self._reversed_padding_repeated_twice = "zeros", []
        self.weight, self.bias = conv.weight, conv.bias
        self.input_quantizer, self.weight_quantizer = input_quantizer, WeightQuantizer()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map [b, C, h, w] to [b, out, h', w']."""
        weight = self.weight_quantizer(self.weight)
        output: Tensor = self._conv_forward(self.input_quantizer(input), weight, self.bias)
        return output


def insert_quantizers(network: nn.Module, reads: dict[str, str], learned: bool) -> None:
    """Replace the named layers by quantised ones that share their weights.

    Args:
        network: Changed in place.
        reads: What each layer reads, by layer name; layers that read the same tensor share one
            quantiser, so that a runtime quantises it once.
        learned: Whether training moves the activation scales.
    """
    shared: dict[str, ActivationQuantizer] = {}
    for name, tensor in reads.items():
        quantizer = shared.setdefault(tensor, ActivationQuantizer(learned))
        parent, _, child = name.rpartition(".")
        layer = network.get_submodule(name)
        quantized: nn.Module
        if isinstance(layer, nn.Linear):
            quantized = QuantLinear(layer, quantizer)
        elif isinstance(layer, nn.Conv2d):
            quantized = QuantConv2d(layer, quantizer)
        else:
            raise TypeError(f"{name} is a {type(layer).__name__}, expected Linear or Conv2d")
        setattr(network.get_submodule(parent), child, quantized.train(layer.training))


def activation_quantizers(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """Return every activation quantiser once, by the name of its first layer."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ActivationQuantizer)
    }


def freeze_scales(network: nn.Module) -> None:
    """Make all scales, as they are now, constants of an exported graph."""
    for module in network.modules():
        if isinstance(module, QuantLinear | QuantConv2d):
            module.weight_quantizer.frozen_scale = weight_scale(module.weight)
            module.input_quantizer.frozen_scale = module.input_quantizer.scale.detach()


def switch_on(network: nn.Module, on: bool = True) -> None:
    """Let every activation quantiser round, or pass its input on unchanged."""
    for quantizer in activation_quantizers(network).values():
        quantizer.on = on


def _export_q_dq(values: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    zero_point = torch.zeros(scale.shape, dtype=torch.int8)
    quantized = torch.onnx.ops.symbolic(
        "QuantizeLinear",
        (values, scale, zero_point),
        attributes,
        dtype=torch.int8,
        shape=values.shape,
        version=18,
    )
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (quantized, scale, zero_point),
        attributes,
        dtype=torch.float32,
        shape=values.shape,
        version=18,
    )
