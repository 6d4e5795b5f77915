import copy

import numpy as np
import pytest
import torch
from torch import nn

from compress.calibrate import calibrate
from compress.errors import RecipeError
from compress.formats import INT4, INT8, UINT4, NumberFormat
from compress.quantize import (
    ActivationQuantizer,
    LayerFormats,
    activation_quantizers,
    insert_quantizers,
)
from tests.compress import tiny


def linear(form: NumberFormat = INT8) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(6, 6))
    insert_quantizers(network, {"0": "x"}, learned=True, formats={"0": LayerFormats(form, form)})
    return network


def batches(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Later batches are wider, so that a range found on the first alone is too small.
    return [torch.randn(200, 6, generator=generator) * size for size in (1, 2, 3)]


def found(network: nn.Module) -> float:
    (quantizer,) = activation_quantizers(network).values()
    return quantizer.scale.item() * 127


def magnitudes(seen: list[torch.Tensor]) -> np.ndarray:
    return np.abs(torch.cat(seen).numpy()).ravel()


def test_max_is_the_largest_magnitude_of_all_batches():
    network = linear()

    calibrate(network, batches(), "max")

    assert found(network) == pytest.approx(magnitudes(batches()).max(), rel=1e-6)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
def test_a_percentile_is_that_of_numpy_to_one_bin(percentile):
    network = linear()

    calibrate(network, batches(), "percentile", percentile)

    values = magnitudes(batches())
    expected = np.percentile(values, percentile, method="inverted_cdf")
    # The histogram answers with the upper edge of the bin that holds the value.
    assert expected <= found(network) * (1 + 1e-6)
    assert found(network) <= expected + values.max() / 4096 * (1 + 1e-3)


def test_a_lower_percentile_ignores_an_outlier_that_max_takes():
    seen = batches()
    seen[0][0, 0] = 1000.0
    by_max, by_percentile = linear(), linear()

    calibrate(by_max, seen, "max")
    calibrate(by_percentile, seen, "percentile", 99.0)

    assert found(by_max) == pytest.approx(1000.0)
    assert found(by_percentile) < 20


def lost(network: nn.Module, seen: list[torch.Tensor]) -> float:
    (quantizer,) = activation_quantizers(network).values()
    values = torch.cat(seen)
    return (quantizer(values) - values).square().sum().item()


@pytest.mark.parametrize("form", [INT8, INT4], ids=lambda form: form.name)
def test_least_squares_loses_no_more_than_any_other_observer(form):
    seen = [batch**3 for batch in batches()]
    best = linear(form)

    calibrate(best, seen, "mse")

    others = [("max", 100.0), ("percentile", 99.99), ("percentile", 99.0), ("percentile", 90.0)]
    for observer, percentile in others:
        other = linear(form)
        calibrate(other, seen, observer, percentile)
        # Ranges tried are 2.5 % apart, and around the best one the loss is flat.
        assert lost(best, seen) <= lost(other, seen) * 1.01


def test_least_squares_clips_a_lone_outlier_in_four_bits():
    seen = batches()
    seen[0][0, 0] = 12.0
    by_max, by_squares = linear(INT4), linear(INT4)

    calibrate(by_max, seen, "max")
    calibrate(by_squares, seen, "mse")

    assert lost(by_squares, seen) < 0.8 * lost(by_max, seen)


def test_least_squares_keeps_two_values_as_they_are():
    sign = torch.randint(0, 2, (500, 6)) * 2.0 - 1
    network = linear(INT4)

    calibrate(network, [0.7 * sign], "mse")

    # To half a bin of the histogram.
    assert lost(network, [0.7 * sign]) <= sign.numel() * (0.7 / 4096) ** 2


@pytest.mark.parametrize("observer", ["max", "percentile", "mse"])
def test_four_bits_take_no_sign_where_no_negative_value_would_be_told_from_zero(observer):
    positive = [nn.functional.gelu(batch * 2) for batch in batches()]
    networks = {"signed": linear(INT4), "unsigned": linear(INT4), "eight bits": linear(INT8)}

    calibrate(networks["signed"], batches(), observer)
    calibrate(networks["unsigned"], positive, observer)
    calibrate(networks["eight bits"], positive, observer)

    forms = {
        name: next(iter(activation_quantizers(network).values())).form
        for name, network in networks.items()
    }
    assert forms == {"signed": INT4, "unsigned": UINT4, "eight bits": INT8}


def test_a_quantizer_that_nothing_passes_through_is_named():
    network = nn.Sequential(nn.Linear(6, 6))
    insert_quantizers(network, {"0": "x"}, learned=True)
    network.add_module("idle", nn.Module())
    network.idle.stray = ActivationQuantizer(learned=True)
    network.idle.forward = lambda values: values

    with pytest.raises(RecipeError, match=r"nothing passed through 1 .* idle\.stray"):
        calibrate(network, batches())


def test_a_tensor_that_is_always_zero_gets_a_scale_that_works():
    network = linear()

    calibrate(network, [torch.zeros(4, 6)])

    assert network(torch.zeros(4, 6)).isfinite().all()
    assert found(network) > 0


@pytest.mark.parametrize("training", [True, False])
def test_calibration_switches_the_quantizers_on_and_keeps_the_mode(training):
    network = linear().train(training)

    calibrate(network, batches())

    assert network.training is training
    assert all(quantizer.on for quantizer in activation_quantizers(network).values())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_ranges_are_those_of_the_network_before_activations_are_rounded(network):
    layers = tiny.layers(network)
    insert_quantizers(network, {layer.name: layer.reads for layer in layers}, learned=True)
    once, twice = copy.deepcopy(network), copy.deepcopy(network)

    calibrate(once, [tiny.pictures(8)], "max")
    calibrate(twice, [tiny.pictures(8)], "max")
    calibrate(twice, [tiny.pictures(8)], "max")

    first, second = activation_quantizers(once), activation_quantizers(twice)
    assert all(torch.equal(first[name].scale, second[name].scale) for name in first)


def test_calibration_changes_nothing_but_the_scales(network):
    layers = tiny.layers(network)
    insert_quantizers(network, {layer.name: layer.reads for layer in layers}, learned=True)
    before = copy.deepcopy(network.state_dict())

    calibrate(network, [tiny.pictures(8)])

    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if name.endswith("input_quantizer.log_scale")}
