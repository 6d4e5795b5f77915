import math

import pytest
import torch
from torch import nn

from compress.formats import FP8, INT4, INT8, UINT4, NumberFormat
from compress.prune import magnitude_masks
from compress.quantize import (
    ActivationQuantizer,
    LayerFormats,
    QuantConv2d,
    QuantLinear,
    WeightQuantizer,
    activation_quantizers,
    freeze_scales,
    insert_quantizers,
    switch_on,
    weight_scale,
)
from tests.compress import tiny


def quantizer(
    amax: float = 1.0, *, learned: bool = True, form: NumberFormat = INT8
) -> ActivationQuantizer:
    made = ActivationQuantizer(learned, form)
    made.set_range(amax)
    made.on = True
    return made


def reads(network: nn.Module) -> dict[str, str]:
    return {layer.name: layer.reads for layer in tiny.layers(network)}


def slow_round(value: float, scale: float) -> float:
    """Nearest step, ties to even, saturating at the ends of INT8."""
    return max(-128, min(127, round(value / scale))) * scale


def test_the_rounding_error_is_at_most_half_a_step_inside_the_range():
    values = torch.empty(10_000).uniform_(-1, 1)
    rounding = quantizer(1.0)

    error = (rounding(values) - values).abs().max()

    # One float32 rounding on top of the half step.
    assert error <= rounding.scale / 2 * (1 + 1e-4)


def test_values_round_as_a_plain_loop_does_and_saturate_at_the_ends():
    rounding = quantizer(1.0)
    scale = rounding.scale.item()
    values = torch.cat([torch.randn(500) * 0.5, torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])])

    expected = torch.tensor([slow_round(value, scale) for value in values.tolist()])

    assert torch.allclose(rounding(values).detach(), expected, rtol=0, atol=1e-6)
    assert rounding(torch.tensor(9.0)).item() == pytest.approx(127 * scale)
    assert rounding(torch.tensor(-9.0)).item() == pytest.approx(-128 * scale)


def test_the_chosen_range_is_represented_without_clipping():
    rounding = quantizer(2.54)

    assert rounding(torch.tensor(2.54)).item() == pytest.approx(2.54)


def test_a_quantizer_is_transparent_until_it_is_switched_on():
    rounding = ActivationQuantizer(learned=True)
    rounding.set_range(0.1)
    values = torch.randn(100)

    assert rounding(values) is values
    switch_on(rounding)
    assert not torch.equal(rounding(values), values)
    switch_on(rounding, False)
    assert rounding(values) is values


def test_each_row_of_a_weight_has_its_own_scale_and_error_bound():
    weight = torch.randn(6, 3, 2, 2) * torch.tensor([1e-4, 1e-2, 1, 10, 1e3, 1e5]).reshape(
        6, 1, 1, 1
    )

    rounded = WeightQuantizer()(weight)

    for row in range(6):
        scale = weight[row].abs().max().item() / 127
        assert weight_scale(weight)[row].item() == pytest.approx(scale)
        assert (rounded[row] - weight[row]).abs().max() <= scale / 2 * (1 + 1e-4)


def test_a_row_of_zeros_stays_zero():
    weight = torch.zeros(2, 8)
    weight[0, 0] = 1

    assert torch.equal(WeightQuantizer()(weight), weight)


def test_zeros_stay_zero_so_masks_survive(network):
    masks = magnitude_masks(network, tiny.pruned_names(network))
    masks.apply(network)
    insert_quantizers(network, reads(network), learned=True)

    for name, mask in masks.masks.items():
        layer = network.get_submodule(name.removesuffix(".weight"))
        effective = layer.weight_quantizer(layer.weight)
        assert (effective[~mask] == 0).all()
        assert (effective[mask] != 0).any()


def test_gradients_pass_inside_the_range_and_stop_outside():
    rounding = quantizer(1.0)
    values = torch.tensor([-5.0, -0.9, -0.001, 0.0, 0.7, 1.0, 5.0], requires_grad=True)

    rounding(values).sum().backward()

    assert values.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("form", [INT8, INT4, UINT4])
def test_rounding_gives_the_bits_of_torch_s_own_fake_quantisation(form):
    ends = (int(form.low), int(form.high))
    values, scales = torch.randn(64, 257), torch.rand(64) * 0.1 + 0.01
    # Halves of a step are where two ways of computing part.
    values[:, 0] = scales * 2.5
    rounding, rows = quantizer(1.0, form=form), WeightQuantizer(form)
    rows.log_scale = nn.Parameter(scales.log())

    tensor = torch.fake_quantize_per_tensor_affine(values, rounding.scale.item(), 0, *ends)
    zeros, width = torch.zeros(64, dtype=torch.int32), rows.scale(values).detach()
    channels = torch.fake_quantize_per_channel_affine(values, width, zeros, 0, *ends)

    assert torch.equal(rounding(values), tensor)
    assert torch.equal(rows(values), channels)


def test_half_a_step_beyond_the_range_still_passes_the_gradient_on():
    rounding = quantizer(127 * 0.5)
    assert rounding.scale.item() == 0.5
    values = torch.tensor([-128.5, 127.5, -128.6, 127.6]).mul(0.5).requires_grad_(True)

    rounding(values).sum().backward()

    assert values.grad.tolist() == [1, 1, 0, 0]


def test_a_bfloat16_activation_is_kept_for_the_gradient_as_it_came():
    rounding = quantizer(1.0)
    values = torch.randn(8, 16, dtype=torch.bfloat16, requires_grad=True)
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rounded = rounding(values)
    rounded.sum().backward()

    assert rounded.dtype is torch.float32
    assert values.grad.dtype is torch.bfloat16
    # The one tensor of this size: no float32 copy beside it.
    assert [tensor.dtype for tensor in kept if tensor.shape == values.shape] == [torch.bfloat16]


def test_a_weight_gets_its_whole_gradient():
    weight = torch.randn(4, 8, requires_grad=True)

    WeightQuantizer()(weight).sum().backward()

    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_the_scale_learns_by_the_formula_of_the_paper():
    rounding = quantizer(1.0)
    values = torch.randn(7, 11, dtype=torch.float64).float()
    upstream = torch.randn(7, 11)

    (rounding(values) * upstream).sum().backward()

    # LSQ, equation 3, one value at a time; g = 1 / sqrt(N * Qp), section 2.2, where N counts the
    # features of one sample.
    scale, total = rounding.scale.item(), 0.0
    for value, gradient in zip(values.flatten().tolist(), upstream.flatten().tolist(), strict=True):
        step = value / scale
        if step <= -128:
            slope = -128.0
        elif step >= 127:
            slope = 127.0
        else:
            slope = round(step) - step
        total += gradient * slope
    # The scale's logarithm is trained: d/dlog(s) = s * d/ds.
    expected = total / math.sqrt(11 * 127) * scale
    assert rounding.log_scale.grad.item() == pytest.approx(expected, rel=1e-3)


def test_a_scale_learns_the_same_however_the_batch_is_divided():
    whole, divided = quantizer(1.0), quantizer(1.0)
    values, upstream = torch.randn(8, 5, 6), torch.randn(8, 5, 6)

    (whole(values) * upstream).sum().backward()
    for part in (slice(0, 2), slice(2, 8)):
        (divided(values[part]) * upstream[part]).sum().backward()

    # The same sum in another order.
    expected = whole.log_scale.grad.item()
    assert divided.log_scale.grad.item() == pytest.approx(expected, rel=1e-4)


def test_a_scale_that_is_not_learned_gets_no_gradient():
    rounding = quantizer(1.0, learned=False)
    values = torch.randn(5, requires_grad=True)

    rounding(values).sum().backward()

    assert rounding.log_scale.grad is None
    assert values.grad is not None


def test_quantised_layers_share_the_weights_they_are_made_from(network):
    before = dict(network.named_parameters())

    insert_quantizers(network, reads(network), learned=True)

    after = dict(network.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    added = set(after) - set(before)
    assert added
    assert all(name.endswith("input_quantizer.log_scale") for name in added)


def test_query_key_and_value_share_one_input_quantizer(network):
    insert_quantizers(network, reads(network), learned=True)

    attention = network.get_submodule("body.vit.layers.0.attention")
    shared = attention.q_proj.input_quantizer
    assert attention.k_proj.input_quantizer is shared
    assert attention.v_proj.input_quantizer is shared
    assert attention.o_proj.input_quantizer is not shared
    # Patch embedding and head, and in each of two blocks: attention in and out, FFN in and out.
    assert len(activation_quantizers(network)) == 2 + 2 * 4


def test_every_linear_and_conv_of_the_network_is_replaced(network):
    insert_quantizers(network, reads(network), learned=True)

    plain = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and not isinstance(module, QuantLinear | QuantConv2d)
    ]
    assert plain == []


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(6, 4), torch.randn(2, 5, 6)),
        (nn.Conv2d(3, 5, 2, stride=2), torch.randn(2, 3, 8, 8)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), torch.randn(1, 4, 5, 5)),
    ],
    ids=["linear", "patches", "grouped"],
)
def test_a_quantised_layer_is_the_layer_on_the_rounded_weight(layer, inputs):
    holder = nn.Sequential(layer)
    insert_quantizers(holder, {"0": "x"}, learned=True)
    came = holder(inputs)

    with torch.no_grad():
        layer.weight.copy_(WeightQuantizer()(layer.weight))
        expected = layer(inputs)
    assert torch.equal(came, expected)


def test_a_layer_of_another_kind_is_refused_by_name():
    with pytest.raises(TypeError, match="0 is a LayerNorm, expected Linear or Conv2d"):
        insert_quantizers(nn.Sequential(nn.LayerNorm(4)), {"0": "x"}, learned=True)


def test_layers_that_round_one_tensor_to_other_formats_share_no_scale():
    holder = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    formats = {"0": LayerFormats(INT8, INT8), "1": LayerFormats(INT4, INT4)}

    insert_quantizers(
        holder, dict.fromkeys("012", "x"), learned=True, formats={**formats, "2": formats["0"]}
    )

    assert holder[0].input_quantizer is holder[2].input_quantizer
    assert [layer.input_quantizer.form for layer in holder] == [INT8, INT4, INT8]


def test_frozen_scales_are_those_of_the_weights_now(network):
    insert_quantizers(network, reads(network), learned=True)
    freeze_scales(network)
    layer = network.get_submodule("body.vit.layers.0.mlp.fc1")

    assert torch.equal(layer.weight_quantizer.frozen_scale, layer.weight.abs().amax(1) / 127)
    assert not any("frozen" in key for key in network.state_dict())


@pytest.mark.parametrize("form", [INT4, UINT4, FP8], ids=lambda form: form.name)
def test_every_format_rounds_to_its_grid_and_passes_gradients_inside_it(form):
    rounding = quantizer(1.0, form=form)
    scale = rounding.scale.item()
    values = torch.randn(500).requires_grad_()

    rounded = rounding(values)
    rounded.sum().backward()

    expected = form.round(values.detach() / scale) * scale
    assert torch.allclose(rounded.detach(), expected, rtol=1e-6, atol=1e-7)
    steps = values.detach() / scale
    inside = (steps >= form.low - 0.5) & (steps <= form.high + 0.5)
    assert inside.any()
    assert not inside.all()
    assert torch.equal(values.grad, inside.float())


@pytest.mark.parametrize("form", [INT8, INT4, FP8], ids=lambda form: form.name)
def test_a_range_that_clips_too_much_learns_to_grow(form):
    rounding = quantizer(0.1, form=form)
    values = torch.randn(1000)

    (rounding(values) - values).square().sum().backward()

    # Against the gradient is upwards.
    assert rounding.log_scale.grad < 0


def test_a_range_that_wastes_its_steps_learns_to_shrink():
    rounding = quantizer(100.0, form=INT4)
    values = torch.randn(1000)

    (rounding(values) - values).square().sum().backward()

    assert rounding.log_scale.grad > 0


def test_each_learned_weight_scale_gets_the_gradient_of_its_own_row():
    weight = torch.randn(4, 16)
    whole, alone = WeightQuantizer(INT4), [WeightQuantizer(INT4) for _ in range(4)]
    whole.search(weight, learned=True)
    upstream = torch.randn(4, 16)

    (whole(weight) * upstream).sum().backward()

    for row, quantizer_of_row in enumerate(alone):
        quantizer_of_row.search(weight[row : row + 1], learned=True)
        (quantizer_of_row(weight[row : row + 1]) * upstream[row]).sum().backward()
        assert whole.log_scale.grad[row].item() == pytest.approx(
            quantizer_of_row.log_scale.grad.item(), rel=1e-4
        )


@pytest.mark.parametrize("form", [INT8, INT4, FP8], ids=lambda form: form.name)
def test_the_searched_scale_of_each_row_loses_no_more_than_the_largest_value_gives(form):
    weight = torch.randn(16, 64) ** 3
    largest, searched = WeightQuantizer(form), WeightQuantizer(form)
    searched.search(weight, learned=False)

    lost = [(each(weight) - weight).square().sum(dim=1) for each in (largest, searched)]

    # Scales are kept as logarithms, which costs their last bit.
    assert (lost[1] <= lost[0] * (1 + 1e-4)).all()
    if form is INT4:
        assert lost[1].sum() < 0.9 * lost[0].sum()


def test_a_weight_on_the_grid_keeps_every_value():
    steps = torch.cat([torch.randint(-7, 8, (8, 31)), torch.full((8, 1), 7)], dim=1)
    weight = steps * torch.logspace(-4, 3, 8)[:, None]
    rounding = WeightQuantizer(INT4)
    rounding.search(weight, learned=True)

    assert torch.allclose(rounding(weight), weight, rtol=1e-5)


def test_blocks_have_their_own_scales_along_the_reduction_axis():
    weight = torch.randn(3, 16) * torch.tensor([1.0] * 8 + [1000.0] * 8)
    rounding = WeightQuantizer(INT4, block_size=8)

    rounded = rounding(weight)

    for row in range(3):
        for start in (0, 8):
            block = weight[row, start : start + 8]
            step = block.abs().max() / 7
            error = (rounded[row, start : start + 8] - block).abs().max()
            assert error <= step / 2 * (1 + 1e-4)


@pytest.mark.parametrize("scales", ["max", "mse", "learned"])
@pytest.mark.parametrize("form", [INT8, INT4, FP8], ids=lambda form: form.name)
def test_masks_survive_every_format_and_scale(network, form, scales):
    masks = magnitude_masks(network, tiny.pruned_names(network))
    masks.apply(network)
    formats = dict.fromkeys(reads(network), LayerFormats(form, form, weight_scales=scales))
    insert_quantizers(network, reads(network), learned=True, formats=formats)

    for name, mask in masks.masks.items():
        layer = network.get_submodule(name.removesuffix(".weight"))
        effective = layer.weight_quantizer(layer.weight)
        assert (effective[~mask] == 0).all()
        assert (effective[mask] != 0).any()


@pytest.mark.parametrize("before", [INT4, UINT4], ids=lambda form: form.name)
@pytest.mark.parametrize("chosen", [INT4, UINT4], ids=lambda form: form.name)
def test_a_state_keeps_the_sign_that_calibration_chose(chosen, before):
    calibrated, copy = quantizer(1.0, form=INT4), quantizer(9.0, form=INT4)
    calibrated.form, copy.form = chosen, before

    copy.load_state_dict(calibrated.state_dict())

    assert copy.form is chosen
    assert copy.scale == calibrated.scale


@pytest.mark.parametrize("form", [INT8, INT4, FP8], ids=lambda form: form.name)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_bfloat16_multiplies_the_numbers_that_are_exported(kind, bias, form):
    if kind == "linear":
        layer, shape = nn.Linear(64, 32, bias=bias), (16, 64)
    else:
        layer, shape = nn.Conv2d(4, 32, 4, stride=4, bias=bias), (16, 4, 8, 8)
    network = nn.Sequential(layer)
    insert_quantizers(network, {"0": "input"}, True, {"0": LayerFormats(form, form)})
    network[0].input_quantizer.set_range(2.3)
    switch_on(network)
    values = torch.randn(shape)

    exact = network(values)
    with torch.autocast("cpu", torch.bfloat16):
        lower = network(values)

    assert lower.dtype == torch.bfloat16
    # The product is rounded to eight bits before and after it is scaled; the bias is not.
    without = exact if layer.bias is None else exact - network(torch.zeros(shape))
    error = (lower.float() - exact).abs()
    assert (error <= 2**-8 * 1.01 * (exact.abs() + without.abs()) + 1e-6).all()


def test_gradients_in_bfloat16_are_those_of_float32_to_its_precision():
    def gradients(lower: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 32))
        insert_quantizers(network, {"0": "input"}, learned=True)
        network[0].input_quantizer.set_range(1.5)
        switch_on(network)
        values = torch.randn(16, 64, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            output = network(values)
        (output.float() * torch.randn(16, 32)).sum().backward()
        return [values.grad, *(parameter.grad for parameter in network.parameters())]

    for exact, lower in zip(gradients(False), gradients(True), strict=True):
        # Sums of many products whose factors are rounded to eight bits.
        assert (lower - exact).norm() <= 0.01 * exact.norm()
