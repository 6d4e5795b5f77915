import copy

import pytest
import torch
from torch import nn

from compress.errors import SparsityError
from compress.prune import PAIRS_OF_EIGHT, PATTERNS, TWO_OF_FOUR, Masks, magnitude_masks
from tests.compress import tiny


def slow_mask(scores: torch.Tensor) -> torch.Tensor:
    """Sort each group by hand: larger first, then the lower index."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(scores.shape[0]):
        for first in range(0, scores.shape[1], 4):
            group = range(first, first + 4)
            best = sorted(group, key=lambda column: (-float(scores[row, column]), column))
            for column in best[:2]:
                mask[row, column] = True
    return mask


def test_every_group_keeps_exactly_two():
    mask = TWO_OF_FOUR.mask(torch.randn(32, 48))

    assert (mask.reshape(-1, 4).sum(dim=1) == 2).all()


def test_the_larger_two_survive_as_a_plain_sort_says():
    scores = torch.randn(8, 24).abs()

    assert torch.equal(TWO_OF_FOUR.mask(scores), slow_mask(scores))


def test_ties_keep_the_lower_index():
    # Few distinct values, so that nearly every group holds a tie.
    scores = torch.randint(0, 3, (64, 32)).float()

    assert torch.equal(TWO_OF_FOUR.mask(scores), slow_mask(scores))
    assert TWO_OF_FOUR.mask(torch.ones(1, 4)).tolist() == [[True, True, False, False]]


def test_pairs_of_eight_keep_the_two_pairs_of_the_largest_sum():
    scores = torch.tensor([[9.0, 0, 3, 3, 0, 10, 5, 5], [1, 1, 1, 1, 1, 1, 1, 1]])

    mask = PAIRS_OF_EIGHT.mask(scores)

    assert mask.int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]]


def test_two_of_four_is_not_what_a_sparse_int4_kernel_reads():
    weight = torch.tensor([[1.0, 0, 1, 0, 1, 0, 1, 0]])

    TWO_OF_FOUR.check(weight, "w", "now")
    with pytest.raises(SparsityError, match="now: 1 of 1 groups of w are not 4:8"):
        PAIRS_OF_EIGHT.check(weight, "w", "now")


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_fused_weight_is_masked_as_its_parts_are(pattern):
    query, key, value = torch.randn(3, 24, 48)

    fused = pattern.mask(torch.cat([query, key, value]).square())

    parts = [pattern.mask(part.square()) for part in (query, key, value)]
    assert torch.equal(fused, torch.cat(parts))
    assert fused.float().mean() == 0.5


def test_a_group_of_zeros_still_keeps_two():
    assert int(TWO_OF_FOUR.mask(torch.zeros(3, 8)).sum()) == 3 * 2 * 2


@pytest.mark.parametrize("shape", [(3, 6), (3, 3, 3, 3)])
def test_a_reduction_axis_that_is_no_multiple_of_four_is_refused(shape):
    inputs = torch.zeros(shape)[0].numel()

    with pytest.raises(SparsityError, match=f"multiple of 4 inputs, got {inputs}"):
        TWO_OF_FOUR.mask(torch.zeros(shape))
    assert TWO_OF_FOUR.unfit(torch.zeros(shape))
    assert not TWO_OF_FOUR.unfit(torch.zeros(3, 8))


def test_a_convolution_is_grouped_along_its_flattened_inputs():
    # C*P*P = 12: a group spans kernel rows, and the third group spans two channels.
    weight = torch.randn(5, 3, 2, 2)

    mask = TWO_OF_FOUR.mask(weight.abs())

    assert mask.shape == weight.shape
    assert torch.equal(mask.reshape(5, 12), slow_mask(weight.abs().reshape(5, 12)))


def test_magnitude_masks_cover_every_named_layer(network):
    names = tiny.pruned_names(network)

    masks = magnitude_masks(network, names)

    assert set(masks.masks) == {f"{name}.weight" for name in names}
    for name, mask in masks.masks.items():
        weight = network.get_parameter(name).detach().flatten(1)
        assert torch.equal(mask.flatten(1), slow_mask(weight.abs()))
    assert set(masks.kept().values()) == {0.5}


@pytest.mark.parametrize("reapply", [True, False])
def test_masks_survive_momentum_only_because_they_are_reapplied(network, reapply):
    masks = magnitude_masks(network, tiny.pruned_names(network))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.01)
    # Dense steps first, so that the momentum of what is about to be cut is not zero.
    for step in range(4):
        if step == 2:
            masks.apply(network)
        optimizer.zero_grad()
        network(tiny.pictures(4, seed=step)).square().mean().backward()
        optimizer.step()
        if step >= 2 and reapply:
            masks.apply(network)

    if reapply:
        masks.verify(network, "after training")
    else:
        with pytest.raises(SparsityError, match="after training"):
            masks.verify(network, "after training")


def test_apply_changes_nothing_but_the_masked_weights(network):
    before = copy.deepcopy(network.state_dict())
    masks = magnitude_masks(network, tiny.pruned_names(network))

    masks.apply(network)

    for name, weight in network.state_dict().items():
        expected = before[name] * masks.masks[name] if name in masks.masks else before[name]
        assert torch.equal(weight, expected)


def test_a_weight_that_comes_back_is_named_with_its_layer(network):
    masks = magnitude_masks(network, tiny.pruned_names(network))
    masks.apply(network)
    name = "body.vit.layers.1.mlp.fc2.weight"
    with torch.no_grad():
        network.get_parameter(name)[~masks.masks[name]] = 1e-6

    back = int((~masks.masks[name]).sum())
    with pytest.raises(SparsityError, match=f"later: {back} pruned weights of {name}"):
        masks.verify(network, "later")


def test_a_mask_that_is_not_two_of_four_is_refused():
    network = nn.Sequential(nn.Linear(8, 2))
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :3] = True

    with pytest.raises(SparsityError, match=r"1 of 4 groups of the mask of 0\.weight"):
        Masks({"0.weight": mask}).verify(network, "at once")


def test_a_weight_with_a_group_of_three_is_refused_and_one_with_fewer_is_not():
    weight = torch.tensor([[1.0, 0, 2, 0, 0, 0, 3, 0]])
    TWO_OF_FOUR.check(weight, "w", "now")

    weight[0, 1] = -1
    with pytest.raises(SparsityError, match="now: 1 of 2 groups of w are not 2:4"):
        TWO_OF_FOUR.check(weight, "w", "now")
