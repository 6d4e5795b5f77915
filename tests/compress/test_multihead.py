"""The Linear layers that stand for torch's fused attention compute the same."""

import pytest
import torch
from torch import nn

from compress.networks.multihead import SplitMultiheadAttention, split_multihead


def attention(**changes: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(16, 4, **changes).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 8, "vdim": 12}], ids=["one width", "three"])
def test_it_computes_what_the_fused_one_computes(bias, batch_first, widths):
    fused = attention(bias=bias, batch_first=batch_first, **widths)
    query, key, value = (
        torch.randn((2, length, width) if batch_first else (length, 2, width))
        for length, width in ((5, 16), (7, widths.get("kdim", 16)), (7, widths.get("vdim", 16)))
    )

    apart = SplitMultiheadAttention(fused)

    for came, expected in zip(apart(query, key, value), fused(query, key, value), strict=True):
        torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)


FORBIDDEN = torch.ones(5, 5, dtype=torch.bool).triu(1)


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": FORBIDDEN},
        {"attn_mask": FORBIDDEN, "is_causal": True},
        {"attn_mask": torch.linspace(-1, 1, 8 * 25).reshape(8, 5, 5)},
        {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])},
        {"average_attn_weights": False},
        {"need_weights": False},
    ],
)
def test_masks_and_options_mean_what_they_mean_there(options):
    fused, tokens = attention(batch_first=True), torch.randn(2, 5, 16)

    came = SplitMultiheadAttention(fused)(tokens, tokens, tokens, **options)

    expected = fused(tokens, tokens, tokens, **options)
    torch.testing.assert_close(came[0], expected[0], rtol=0, atol=1e-5)
    if expected[1] is None:
        assert came[1] is None
    else:
        torch.testing.assert_close(came[1], expected[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_single_sample_needs_no_batch(batch_first):
    fused, tokens = attention(batch_first=batch_first), torch.randn(5, 16)

    came = SplitMultiheadAttention(fused)(tokens, tokens, tokens)

    for one, other in zip(came, fused(tokens, tokens, tokens), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_an_encoder_layer_computes_the_same_and_calls_four_linear_layers():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    tokens = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = layer(tokens)
    called: list[str] = []

    replaced = split_multihead(layer)

    assert replaced == ["self_attn"]
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens), expected, rtol=0, atol=1e-5)
    parts = ["q_proj", "k_proj", "v_proj", "out_proj"]
    assert called == [*(f"self_attn.{part}" for part in parts), "linear1", "linear2"]


def test_attention_with_keys_of_its_own_stays_as_it_is():
    body = nn.ModuleDict(
        {"one": attention(add_bias_kv=True), "other": attention(add_zero_attn=True)}
    )

    assert split_multihead(body) == []
    assert isinstance(body["one"], nn.MultiheadAttention)
