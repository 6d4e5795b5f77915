import itertools

import pytest
import torch

from compress.errors import RecipeError
from compress.networks import swin
from compress.networks.network import Classifier, Layer
from compress.permute import _WAYS, best_order, permute_channels
from compress.prune import TWO_OF_FOUR, magnitude_masks
from tests.compress import tiny

HALF = (0.5, 0.5, 0.5)


def kept(scores: torch.Tensor) -> float:
    return scores[TWO_OF_FOUR.mask(scores)].sum().item()


def test_the_ways_are_all_divisions_of_eight_columns():
    divisions = {frozenset((frozenset(way[:4]), frozenset(way[4:]))) for way in _WAYS}

    assert len(_WAYS) == len(divisions) == 35
    assert _WAYS[0] == tuple(range(8))


def test_of_eight_columns_the_best_order_of_all_is_found():
    torch.manual_seed(0)
    scores = torch.rand(5, 8)

    found = kept(scores[:, best_order(scores)])

    best = max(kept(scores[:, list(order)]) for order in itertools.permutations(range(8)))
    assert found == pytest.approx(best)


def test_an_order_is_a_permutation_that_keeps_more_than_the_given_one():
    torch.manual_seed(0)
    scores = torch.randn(32, 64).square()

    order = best_order(scores)

    assert sorted(order.tolist()) == list(range(64))
    assert kept(scores[:, order]) > 1.03 * kept(scores)


def test_columns_stay_inside_their_block():
    scores = torch.rand(8, 48)

    order = best_order(scores, blocks=3)

    assert (order // 16).tolist() == [0] * 16 + [1] * 16 + [2] * 16


def swin_network() -> Classifier:
    torch.manual_seed(0)
    body = swin.build(
        {
            "image_size": 16,
            "patch_size": 2,
            "window_size": 4,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "num_labels": 3,
            "initializer_range": 0.3,
        }
    )
    return Classifier(body, HALF, HALF).eval()


@pytest.mark.parametrize("make", [lambda: tiny.network(hidden_size=48), swin_network])
def test_the_network_answers_as_before_and_its_masks_keep_more(make):
    network = make()
    find = swin.layers if make is swin_network else tiny.layers
    layers = [
        Layer(
            layer.name if layer.name.startswith("body.") else f"body.{layer.name}",
            layer.role,
            layer.reads,
        )
        for layer in (find(network.body) if make is swin_network else find(network))
    ]
    picture = tiny.pictures(4, side_px=16 if make is swin_network else tiny.SIDE_PX)
    with torch.inference_mode():
        before = network(picture)

    gained = permute_channels(network, layers, picture)

    with torch.inference_mode():
        assert torch.allclose(network(picture), before, atol=1e-4)
    assert len(gained) == 4
    assert all(gain >= 1 for gain in gained.values())
    assert max(gained.values()) > 1.02
    masks = magnitude_masks(network, list(gained))
    for name in gained:
        weight = network.get_parameter(f"{name}.weight")
        share = (weight * masks.masks[f"{name}.weight"]).square().sum() / weight.square().sum()
        assert share > 0.5


def test_a_network_without_known_pairs_is_refused():
    network = tiny.network()
    layers = [Layer(layer.name, "linear", layer.reads) for layer in tiny.layers(network)]

    with pytest.raises(RecipeError, match="no layers whose channels are known"):
        permute_channels(network, layers, tiny.pictures(2))


def test_layers_whose_channels_are_mixed_in_between_are_refused():
    network = tiny.network(hidden_size=48)
    # Query feeds no reduction axis: its rows are no free choice.
    swap = {"query": "value", "value": "query"}
    layers = [
        Layer(layer.name, swap.get(layer.role, layer.role), layer.reads)
        for layer in tiny.layers(network)
    ]

    with pytest.raises(RecipeError, match="answers differently"):
        permute_channels(network, layers, tiny.pictures(8))
