"""Deformable attention by gathers computes what it computes by grid sampling."""

import pytest
import torch
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from compress.networks.deformable_sampling import gathered

SIZES = [(7, 5), (4, 3), (1, 2)]


@pytest.mark.parametrize("reach", [1.0, 3.0, 1e6], ids=["inside", "around", "far outside"])
def test_gathers_equal_grid_sampling(reach):
    torch.manual_seed(0)
    places = sum(height * width for height, width in SIZES)
    value = torch.randn(2, places, 4, 8)
    locations = (torch.rand(2, 11, 4, 3, 5, 2) - 0.5) * reach + 0.5
    weights = torch.rand(2, 11, 4, 3, 5)

    came = gathered(value, SIZES, locations, weights)

    shapes = torch.tensor(SIZES)
    expected = MultiScaleDeformableAttention()(value, shapes, SIZES, None, locations, weights, 64)
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("place", [0.0, 1.0, 0.5, 0.5 / 7, 1 - 0.5 / 7, 1.0000001, -0.0714])
def test_on_edges_and_centres_both_take_the_same_pixels(place):
    torch.manual_seed(1)
    value = torch.randn(1, 49, 1, 4)
    locations = torch.full((1, 1, 1, 1, 1, 2), place)
    weights = torch.ones(1, 1, 1, 1, 1)

    came = gathered(value, [(7, 7)], locations, weights)

    sample = MultiScaleDeformableAttention()
    expected = sample(value, torch.tensor([[7, 7]]), [(7, 7)], None, locations, weights, 64)
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)
