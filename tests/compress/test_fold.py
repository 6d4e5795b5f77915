"""Batch norms are computed into the convolutions before them, and nothing else changes."""

import pytest
import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from compress.networks import upernet
from compress.networks.fold import fold_batch_norms
from tests.compress import graphs, tiny_regions
from tests.compress.test_upernet import ARCHITECTURE

NORMS = (nn.BatchNorm2d, DetrFrozenBatchNorm2d)


def logits(body: nn.Module) -> Tensor:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return body(pixel_values=pixels).logits


def detr() -> nn.Module:
    backbone = ResNetConfig(
        depths=[1, 2, 1, 1],
        hidden_sizes=[8, 16, 16, 32],
        embedding_size=8,
        out_features=["stage4"],
    )
    return DetrForObjectDetection(
        DetrConfig(
            backbone_config=backbone,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            num_queries=4,
        )
    )


BODIES = {"upernet": lambda: upernet.build(ARCHITECTURE), "detr": detr}


@pytest.mark.parametrize("kind", BODIES)
def test_a_network_computes_the_same_without_its_norms(kind):
    torch.manual_seed(0)
    body = graphs.shaken(BODIES[kind](), by=0.3).eval()
    norms = [name for name, module in body.named_modules() if isinstance(module, NORMS)]
    expected = logits(body)

    folded = fold_batch_norms(body)

    assert sorted(folded) == sorted(norms)
    assert not [module for module in body.modules() if isinstance(module, NORMS)]
    assert expected.std() > 0.05
    largest = float(expected.abs().max())
    torch.testing.assert_close(logits(body), expected, rtol=0, atol=1e-5 * max(1, largest))


def test_a_folded_network_trains_its_convolutions_alone():
    body = upernet.build(ARCHITECTURE)

    fold_batch_norms(body)

    layer = body.get_submodule("decode_head.bottleneck")
    assert [name for name, _ in layer.named_parameters()] == ["conv.weight", "conv.bias"]
    assert layer.conv.bias.requires_grad


def test_norms_of_box_heads_are_computed_into_their_convolutions():
    network = tiny_regions.network(stages=2, box_convs=2, box_linears=1, box_norm=True)
    graphs.shaken(network.body, by=0.1)
    images, _ = tiny_regions.rectangles()
    with torch.no_grad():
        expected = network(images)

        folded = fold_batch_norms(network)
        came = network(images)

    assert folded == [f"body.box_heads.{head}.norms.{norm}" for head in (0, 1) for norm in (0, 1)]
    assert not [module for module in network.modules() if isinstance(module, NORMS)]
    for name in ("logits.0", "offsets.0"):
        assert expected[name].std() > 0.05
        torch.testing.assert_close(came[name], expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_side_by_side_in_a_sequential_they_are_folded(affine, bias):
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine), nn.ReLU())
    graphs.shaken(pair, by=0.5).eval()
    pixels = torch.randn(2, 3, 8, 8)
    expected = pair(pixels)

    assert fold_batch_norms(pair) == ["1"]

    torch.testing.assert_close(pair(pixels), expected, rtol=0, atol=1e-5)


def test_a_norm_that_follows_no_convolution_stays():
    apart = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))

    assert fold_batch_norms(apart) == []


def test_a_norm_without_statistics_is_refused():
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))

    with pytest.raises(TypeError, match="expected a batch norm with statistics"):
        fold_batch_norms(pair)
