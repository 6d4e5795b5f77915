"""Fake quantisation: symmetric, weights per output channel or block, activations per tensor.

In training and evaluation the numbers are rounded as torch's own kernels round them; under export
the same modules emit explicit QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from compress import qdq
from compress.formats import FLOAT32, INT4, INT8, UINT4, NumberFormat

# Below this a scale would underflow when it is inverted; a constant zero tensor gets it.
_SMALLEST_SCALE = 1e-8
# Moves an end of a range to the next float32 or so, where a kernel leaves the end itself out.
_INCLUSIVE = 1 + 2**-22
# Ranges that the search for a weight's scale tries, as shares of the largest value.
_SHARES = tuple((20 + index) / 60 for index in range(41))


@dataclass(frozen=True)
class LayerFormats:
    """How one layer is quantised.

    Args:
        weights, activations: Number formats of the weight and of the input; the input stays as
            it is in float32.
        block_size: Neighbours along the reduction axis that share a weight scale; None is a
            whole output channel.
        weight_scales: "max" follows the largest value, "mse" is the one of least squared error
            before training, "learned" starts there and is trained.
        output: Whether the output is rounded as well, in the activations' format.
        reason: Why this layer differs from what the recipe asks for; empty where it does not.
    """

    weights: NumberFormat = INT8
    activations: NumberFormat = INT8
    block_size: int | None = None
    weight_scales: Literal["max", "mse", "learned"] = "max"
    output: bool = False
    reason: str = ""


class _RoundToGrid(torch.autograd.Function):
    """Round to ``scale`` times the grid of a format; gradients as in LSQ.

    Straight through for the input inside the range, zero outside; the scale learns from the
    rounding error inside and from the range's ends outside. One scale [] for the tensor, or one
    a row [rows] of a matrix.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153, eq. 3-5.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, form: NumberFormat) -> Tensor:
        # Kept in the precision it came in: a float32 copy would take twice the memory.
        ctx.save_for_backward(values, scale)
        ctx.form = form
        return _rounded(values.float(), scale.detach(), form)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        values, scale = ctx.saved_tensors
        form = ctx.form
        steps = _steps(values.float(), scale)
        # The one kernel that passes a gradient on inside a range, zero elsewhere.
        low, high = (form.low - 0.5) * _INCLUSIVE, (form.high + 0.5) * _INCLUSIVE
        to_values = torch.ops.aten.hardtanh_backward(gradient, steps, low, high)
        if not ctx.needs_input_grad[1]:
            return to_values.to(values.dtype), None, None
        nearest = form.round(steps)
        # Inside, the slope is what rounding adds; outside, the end of the range.
        to_scale = _dot(nearest - steps, to_values, scale)
        to_scale += _dot(nearest, gradient - to_values, scale)
        # The source's factor (section 2.2), of one sample or row, however a batch is divided. Adam
        # divides it out of the scale's own step; it keeps the sum from ruling the clipped norm.
        balance = (values[0].numel() * form.high) ** -0.5
        return to_values.to(values.dtype), to_scale * balance, None


def _steps(values: Tensor, scale: Tensor) -> Tensor:
    """Return ``values`` in units of their scale, as torch's own kernels compute them."""
    inverse = scale.reciprocal()
    return values * (inverse[:, None] if scale.ndim else inverse)


def _dot(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """Return the sum of products over what shares a scale: shaped as ``scale``."""
    if scale.ndim:
        return (left * right).sum(dim=1)
    return torch.dot(left.flatten(), right.flatten())


def _rounded(values: Tensor, scale: Tensor, form: NumberFormat) -> Tensor:
    width = scale[:, None] if scale.ndim else scale
    if not form.integer:
        return form.round(values / width) * width
    if scale.ndim or values.device.type == "cpu":
        # The same bits as torch's fake quantisation, whose CPU kernels use no SIMD and whose kernel
        # for rows has the host read their zero points back.
        return _steps(values, scale).round_().clamp_(form.low, form.high).mul_(width)
    zero_point = torch.zeros((), dtype=torch.int32, device=values.device)
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(
        values, scale, zero_point, int(form.low), int(form.high)
    )
    return rounded


class ActivationQuantizer(nn.Module):
    """Fake quantisation of an activation, one scale for the tensor.

    Passes tensors on unchanged until :func:`switch_on`, after calibration.

    Args:
        learned: Whether training moves the scale.
        form: Number format. INT4 becomes UINT4 where calibration finds no negative value that
            INT4 would tell from zero.
        amax: Range that is known beforehand; calibration and training then leave it.
    """

    frozen_scale: Tensor

    def __init__(self, learned: bool, form: NumberFormat = INT8, amax: float | None = None) -> None:
        super().__init__()
        # Its logarithm is trained: a step then changes the scale by a share of itself, however
        # small it is, and it stays positive.
        known = amax is not None
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learned and not known)
        self.register_buffer("frozen_scale", torch.empty(()), persistent=False)
        self.form = form
        self.known = known
        self.on = False
        if amax is not None:
            self.set_range(amax)

    @property
    def scale(self) -> Tensor:
        """The width of one step of the grid."""
        return self.log_scale.exp()

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` rounded to the grid; shape and meaning stay."""
        if torch.compiler.is_exporting():
            return qdq.emit(values, self.frozen_scale, self.form)
        if not self.on:
            return values
        rounded: Tensor = _RoundToGrid.apply(values, self.scale, self.form)  # type: ignore[no-untyped-call]
        return rounded

    @torch.no_grad()
    def set_range(self, amax: float) -> None:
        """Make ``amax`` the largest magnitude that is represented without clipping."""
        self.log_scale.fill_(math.log(max(amax / self.form.high, _SMALLEST_SCALE)))

    def freeze(self) -> None:
        """Make the scale, as it is now, a constant of an exported graph."""
        self.frozen_scale = self.scale.detach()

    def get_extra_state(self) -> Tensor:
        """Keep what calibration decided on the format."""
        return torch.tensor(self.form is UINT4)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the decision up again, whatever was decided here."""
        if state or self.form is UINT4:
            self.form = UINT4 if state else INT4


class WeightQuantizer(nn.Module):
    """Fake quantisation of a weight, one scale an output channel or block of one.

    The scale follows the largest value until :meth:`search` gives it a scale of its own.

    Args:
        form: Number format.
        block_size: Neighbours along the reduction axis that share a scale; None is all of them.
    """

    frozen_scale: Tensor

    def __init__(self, form: NumberFormat = INT8, block_size: int | None = None) -> None:
        super().__init__()
        self.form, self.block_size = form, block_size
        self.register_parameter("log_scale", None)
        self.register_buffer("frozen_scale", torch.empty(0), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` [out, ...] rounded to its grid; zeros stay exactly zero."""
        if torch.compiler.is_exporting():
            return qdq.emit(weight, self.frozen_scale, self.form, self.block_size)
        rows = self._rows(weight)
        rounded: Tensor = _RoundToGrid.apply(rows, self.scale(weight), self.form)  # type: ignore[no-untyped-call]
        return rounded.reshape(weight.shape)

    def scale(self, weight: Tensor) -> Tensor:
        """Return the scale of each row, a row being what shares one: [rows] float32."""
        if self.log_scale is not None:
            return self.log_scale.exp()
        return weight_scale(self._rows(weight), self.form)

    def search(self, weight: Tensor, learned: bool) -> None:
        """Fix the scales of least squared error on ``weight``; training may move them on."""
        scale = least_squares_scale(self._rows(weight).detach(), self.form)
        self.log_scale = nn.Parameter(scale.log(), requires_grad=learned)

    def freeze(self, weight: Tensor) -> None:
        """Make the scales, as they are now, constants of an exported graph."""
        scale = self.scale(weight).detach()
        self.frozen_scale = scale.reshape(len(weight), -1) if self.block_size else scale

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1, self.block_size) if self.block_size else weight.flatten(1)


def weight_scale(weight: Tensor, form: NumberFormat = INT8) -> Tensor:
    """Return the scale of each output channel of ``weight`` [out, ...]: [out] float32."""
    amax = weight.detach().flatten(1).abs().amax(dim=1)
    return (amax / form.high).clamp(min=_SMALLEST_SCALE)


def least_squares_scale(rows: Tensor, form: NumberFormat) -> Tensor:
    """Return the scale of each of ``rows`` [rows, n] that loses least by rounding and clipping.

    Tried are ranges from a third of the largest magnitude to all of it.
    """
    largest = weight_scale(rows, form)
    best, least = largest, torch.full_like(largest, torch.inf)
    for share in reversed(_SHARES):
        scale = largest * share
        error = (_rounded(rows, scale, form) - rows).square().sum(dim=1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _whole_steps(
    layer: QuantLinear | QuantConv2d, values: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return input and weight in units of their scales, and the scale [out] of their product.

    Autocast would cast both off their grids, but bfloat16 holds the number of steps exactly, of
    every format. None where there is no such cast, or where a channel has several scales.
    """
    device, inputs, weights = values.device.type, layer.input_quantizer, layer.weight_quantizer
    if torch.compiler.is_exporting() or not torch.is_autocast_enabled(device):
        return None
    if torch.get_autocast_dtype(device) is not torch.bfloat16 or weights.block_size:
        return None
    if not isinstance(inputs, ActivationQuantizer) or not inputs.on:
        return None
    width, widths = inputs.scale.detach(), weights.scale(layer.weight).detach()
    inverse = widths.reciprocal().reshape(-1, *[1] * (weight.ndim - 1))
    steps = (values * width.reciprocal()).bfloat16()
    return steps, (weight * inverse).bfloat16(), width * widths


def _multiplied(
    layer: QuantLinear | QuantConv2d, inputs: Tensor, multiply: Callable[..., Tensor]
) -> Tensor:
    values, weight = layer.input_quantizer(inputs), layer.weight_quantizer(layer.weight)
    if steps := _whole_steps(layer, values, weight):
        *operands, scale = steps
        channels = (-1, *[1] * (weight.ndim - 2))
        bias = 0.0 if layer.bias is None else layer.bias.reshape(channels)
        output = (multiply(*operands, None) * scale.reshape(channels) + bias).bfloat16()
    else:
        output = multiply(values, weight, layer.bias)
    rounded: Tensor = layer.output_quantizer(output)
    return rounded


class QuantLinear(nn.Linear):
    """A Linear with rounded input and weight; shares the parameters it is made from."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.input_quantizer: nn.Module = nn.Identity()
        self.weight_quantizer = WeightQuantizer()
        self.output_quantizer: nn.Module = nn.Identity()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map [..., in] to [..., out]."""
        return _multiplied(self, input, nn.functional.linear)


class QuantConv2d(nn.Conv2d):
    """A Conv2d with rounded input and weight; shares the parameters it is made from."""

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(
            {key: value for key, value in conv.__dict__.items() if not key.startswith("_")}
        )
        self.padding_mode, self._reversed_padding_repeated_twice = "zeros", []
        self.weight, self.bias = conv.weight, conv.bias
        self.input_quantizer: nn.Module = nn.Identity()
        self.weight_quantizer = WeightQuantizer()
        self.output_quantizer: nn.Module = nn.Identity()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map [b, C, h, w] to [b, out, h', w']."""
        return _multiplied(self, input, self._conv_forward)


def insert_quantizers(
    network: nn.Module,
    reads: Mapping[str, str],
    learned: bool,
    formats: Mapping[str, LayerFormats] | None = None,
) -> None:
    """Replace the named layers by quantised ones that share their weights.

    Args:
        network: Changed in place.
        reads: What each layer reads, by layer name; layers that read the same tensor share one
            quantiser, so that a runtime quantises it once.
        learned: Whether training moves the activation scales.
        formats: How each layer is quantised, by name; INT8 where none is given.
    """
    # By the format as well: the first and the last layer may have another than the rest.
    shared: dict[tuple[str, str], nn.Module] = {}
    for name, tensor in reads.items():
        layer_formats = formats[name] if formats else LayerFormats()
        layer = network.get_submodule(name)
        quantized = _quantized(name, layer, layer_formats)
        activations = layer_formats.activations
        if activations is not FLOAT32:
            quantized.input_quantizer = shared.setdefault(
                (tensor, activations.name), ActivationQuantizer(learned, activations)
            )
        if layer_formats.output:
            quantized.output_quantizer = ActivationQuantizer(learned, activations)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, quantized.train(layer.training))


def _quantized(name: str, layer: nn.Module, formats: LayerFormats) -> QuantLinear | QuantConv2d:
    quantized: QuantLinear | QuantConv2d
    if isinstance(layer, nn.Linear):
        quantized = QuantLinear(layer)
    elif isinstance(layer, nn.Conv2d):
        quantized = QuantConv2d(layer)
    else:
        raise TypeError(f"{name} is a {type(layer).__name__}, expected Linear or Conv2d")
    quantizer = WeightQuantizer(formats.weights, formats.block_size)
    if formats.weight_scales != "max":
        quantizer.search(layer.weight, learned=formats.weight_scales == "learned")
    quantized.weight_quantizer = quantizer
    return quantized


def activation_quantizers(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """Return every activation quantiser once, by the name of its first layer."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ActivationQuantizer)
    }


def quantized_layers(network: nn.Module) -> dict[str, QuantLinear | QuantConv2d]:
    """Return every quantised layer by its name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, QuantLinear | QuantConv2d)
    }


def formats_of(network: nn.Module) -> set[NumberFormat]:
    """Return every number format that the quantisers of a network round to."""
    weights = {layer.weight_quantizer.form for layer in quantized_layers(network).values()}
    return weights | {quantizer.form for quantizer in activation_quantizers(network).values()}


def freeze_scales(network: nn.Module) -> None:
    """Make all scales, as they are now, constants of an exported graph."""
    for layer in quantized_layers(network).values():
        layer.weight_quantizer.freeze(layer.weight)
    for quantizer in activation_quantizers(network).values():
        quantizer.freeze()


def switch_on(network: nn.Module, on: bool = True) -> None:
    """Let every activation quantiser round, or pass its input on unchanged."""
    for quantizer in activation_quantizers(network).values():
        quantizer.on = on
