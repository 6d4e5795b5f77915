import pytest
import torch
from torch import nn

from compress.accounting import LayerCost, cost
from compress.prune import PAIRS_OF_EIGHT, TWO_OF_FOUR
from tests.compress import tiny


def test_a_pruned_int8_layer_is_6_4_times_smaller_and_32_times_less_work():
    layer = LayerCost(
        "w", parameters=1024, scales=17, macs=5000, pattern=TWO_OF_FOUR, weight_bits=8, input_bits=8
    )

    # Four weights: 2 * 8 bits and 2 * 2 bits of index instead of 4 * 32.
    assert 1024 * 32 / layer.stored_bits == 6.4
    assert layer.macs / layer.float_macs == 32


@pytest.mark.parametrize(
    ("pattern", "bits", "stored", "operations"),
    [
        (None, (32, 32), 1, 1),
        (None, (8, 8), 4, 16),
        (TWO_OF_FOUR, (32, 32), 64 / 34, 2),
        # Eight weights: 4 * 4 bits and 2 * 2 bits of index instead of 8 * 32.
        (PAIRS_OF_EIGHT, (4, 4), 12.8, 128),
        (PAIRS_OF_EIGHT, (4, 8), 12.8, 64),
        (None, (4, 32), 8, 8),
    ],
)
def test_other_formats_by_hand(pattern, bits, stored, operations):
    weight_bits, input_bits = bits
    layer = LayerCost("w", 64, 9, 640, pattern, weight_bits, input_bits)

    assert 64 * 32 / layer.stored_bits == pytest.approx(stored)
    assert 640 / layer.float_macs == pytest.approx(operations)


class _TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=2, stride=2)
        self.linear = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images.permute(0, 3, 1, 2).float())
        return self.linear(maps.mean(dim=(2, 3)))


def test_multiply_accumulates_of_a_linear_and_a_conv_by_hand():
    total, (conv, linear) = cost(
        _TwoLayers(),
        torch.zeros(1, 6, 6, 3),
        {"conv": TWO_OF_FOUR},
        {"conv": (8, 8), "linear": (8, 8)},
    )

    # 3 x 3 places, each a product of 3 * 2 * 2 inputs with 8 outputs.
    assert (conv.name, conv.macs) == ("conv", 9 * 12 * 8)
    assert (linear.name, linear.macs) == ("linear", 8 * 5)
    assert (conv.parameters, linear.parameters) == (96, 40)
    assert total.dense_macs == 9 * 12 * 8 + 8 * 5
    # Weights, biases and scales; only conv is sparse, and biases stay float. A scale for each of
    # 8 + 5 output channels and for each of the two inputs.
    assert total.parameters == 96 + 8 + 40 + 5
    assert total.dense_bytes == 149 * 4
    assert total.compressed_bytes == (96 // 4 * 20 + 40 * 8 + 13 * 32 + (13 + 2) * 32) // 8
    assert total.float_macs == pytest.approx(9 * 12 * 8 / 32 + 8 * 5 / 16)


def test_totals_of_a_vit_add_up(network):
    layers = tiny.layers(network)
    patterns = dict.fromkeys(tiny.pruned_names(network), TWO_OF_FOUR)

    total, costs = cost(
        network, tiny.pictures(1), patterns, {layer.name: (8, 8) for layer in layers}
    )

    tokens, hidden, blocks = 17, 24, 2
    # Scores and weighted values: two products of [tokens, tokens] with [tokens, hidden].
    attention = blocks * 2 * tokens * tokens * hidden
    assert total.dense_macs == sum(entry.macs for entry in costs) + attention
    assert total.float_macs == pytest.approx(sum(e.float_macs for e in costs) + attention)
    assert total.layer_size_ratio == pytest.approx(6.4)
    assert total.layer_operation_ratio == pytest.approx(32)
    by_name = {entry.name: entry for entry in costs}
    assert by_name["body.vit.layers.0.attention.q_proj"].macs == tokens * hidden * hidden
    assert by_name["body.vit.layers.1.mlp.fc1"].macs == tokens * hidden * 48
    assert by_name["body.classifier"].macs == hidden * 3
    assert by_name["body.classifier"].pattern is None
    everything = sum(parameter.numel() for parameter in network.parameters())
    in_layers = sum(entry.parameters for entry in costs)
    stored = sum(entry.stored_bits + 32 * entry.scales for entry in costs) / 8
    assert total.parameters == everything
    assert total.compressed_bytes == int(stored + 4 * (everything - in_layers))


def test_a_network_without_a_pruned_layer_has_ratios_of_its_other_layers():
    total, _ = cost(_TwoLayers(), torch.zeros(1, 6, 6, 3), {}, {"conv": (8, 8), "linear": (8, 8)})

    # INT8 alone: a quarter of the bits, and 32^2 over 8^2 of the work.
    assert total.layer_size_ratio == 4
    assert total.layer_operation_ratio == 16


@pytest.mark.parametrize(
    ("pattern", "bits", "expected"),
    [
        (None, (32, 32), 1),
        (None, (8, 8), 16),
        (None, (4, 4), 32),
        (TWO_OF_FOUR, (8, 8), 32),
        (PAIRS_OF_EIGHT, (4, 4), 64),
        # Tensor cores take both operands in one format.
        (PAIRS_OF_EIGHT, (4, 8), 32),
        (None, (4, 32), 1),
    ],
)
def test_operations_of_tensor_cores_by_hand(pattern, bits, expected):
    layer = LayerCost("w", 64, 9, 640, pattern, *bits)

    assert 640 / layer.tensor_core_macs == expected


def test_products_of_activations_are_counted_by_themselves(network):
    layers = tiny.layers(network)
    picture = tiny.pictures(1)
    bits = {layer.name: (8, 8) for layer in layers}

    total, costs = cost(network, picture, {}, bits)
    without_head, fewer = cost(network, picture, {}, dict.fromkeys(list(bits)[:-1], (8, 8)))

    attention = 2 * 2 * 17 * 17 * 24
    assert total.product_macs == without_head.product_macs == attention
    in_layers = sum(entry.macs for entry in costs) / 16
    assert total.integer_products(8) == pytest.approx(in_layers + attention / 16)
    assert total.integer_products(32) == total.float_macs
    assert total.tensor_core_macs(costs, 4) == pytest.approx(in_layers + attention / 32)
    # A layer that is not quantised stays in float.
    head = 24 * 3
    expected = (sum(entry.macs for entry in fewer) + attention) / 16 + head
    assert without_head.tensor_core_macs(fewer, 8) == pytest.approx(expected)


def test_weights_in_blocks_have_a_scale_a_block_and_float_inputs_have_none():
    bits, picture = {"conv": (4, 32), "linear": (4, 32)}, torch.zeros(1, 6, 6, 3)

    total, (conv, linear) = cost(_TwoLayers(), picture, {}, bits, {"linear": 4})

    # Eight output channels; 5 * 8 weights in blocks of four.
    assert (conv.scales, linear.scales) == (8, 10)
    stored = (96 + 40) * 4 + (8 + 10) * 32
    assert total.compressed_bytes == (stored + (8 + 5) * 32) // 8


def test_rounded_products_of_attention_count_by_their_bits(network):
    bits = {layer.name: (8, 8) for layer in tiny.layers(network)}

    in_float, _ = cost(network, tiny.pictures(1), {}, bits)
    rounded, _ = cost(network, tiny.pictures(1), {}, bits, product_bits=8)

    attention = 2 * 2 * 17 * 17 * 24
    assert in_float.float_macs - rounded.float_macs == pytest.approx(attention * 15 / 16)
    assert rounded.integer_products(8) == rounded.float_macs
    assert rounded.integer_products(32) == pytest.approx(in_float.float_macs)
