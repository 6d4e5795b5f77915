import copy
import itertools

import pytest
import torch
from torch import nn

from compress.mask_schedule import MovingMasks
from compress.prune import PAIRS_OF_EIGHT, TWO_OF_FOUR, magnitude_masks


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 6))


def moving(
    trained: nn.Module, steps: int = 6, *, gradual: bool = False, pattern=TWO_OF_FOUR
) -> MovingMasks:
    masks = magnitude_masks(trained, ["0"], pattern)
    return MovingMasks(masks, steps, every=2, gradual=gradual)


def disturb(trained: nn.Module, step: int) -> None:
    """Move every weight, cut ones too, as an optimiser does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        weight = trained.get_parameter("0.weight")
        weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


def kept(trained: nn.Module, group: int = 4) -> int:
    return int((trained[0].weight.reshape(-1, group) != 0).sum(dim=1).max())


def test_weights_in_sight_and_out_of_sight_together_are_what_training_made_of_them():
    trained = network()
    dense = copy.deepcopy(trained)
    masks = moving(trained)
    masks.start(trained)

    for step in range(5):
        disturb(trained, step)
        disturb(dense, step)
        masks.after_step(trained, step)
        together = trained[0].weight + masks.hidden["0.weight"]
        assert torch.allclose(together, dense[0].weight, atol=1e-6)
        masks.masks.verify(trained, "after a step")


def test_masks_follow_the_largest_weights_and_then_stay():
    trained = network()
    masks = moving(trained)
    masks.start(trained)
    seen = []

    for step in range(10):
        disturb(trained, step)
        masks.after_step(trained, step)
        seen.append(masks.masks.masks["0.weight"].clone())

    changed = [not torch.equal(one, other) for one, other in itertools.pairwise(seen)]
    # Chosen anew after steps 2, 4 and 6, which end with index 1, 3 and 5.
    assert changed == [True, False, True, False, True, False, False, False, False]
    assert kept(trained) == 2


@pytest.mark.parametrize(
    ("pattern", "expected"), [(TWO_OF_FOUR, [3, 3, 2, 2]), (PAIRS_OF_EIGHT, [6, 6, 4, 4])]
)
def test_gradual_masks_cut_a_unit_more_as_steps_pass(pattern, expected):
    trained = network()
    masks = moving(trained, gradual=True, pattern=pattern)
    masks.start(trained)
    counts = [kept(trained, pattern.group)]

    for step in range(6):
        disturb(trained, step)
        masks.after_step(trained, step)
        if step % 2:
            counts.append(kept(trained, pattern.group))

    assert counts == expected
    masks.masks.verify(trained, "at the end")


def test_a_resumed_schedule_goes_on_as_the_unbroken_one():
    trained = network()
    masks = moving(trained)
    masks.start(trained)
    for step in range(3):
        disturb(trained, step)
        masks.after_step(trained, step)
    other, state = copy.deepcopy(trained), copy.deepcopy(masks.state())
    resumed = moving(network())
    resumed.masks.masks, resumed.hidden = state["masks"], state["hidden"]
    resumed.start(other)

    for step in range(3, 8):
        for each, schedule in ((trained, masks), (other, resumed)):
            disturb(each, step)
            schedule.after_step(each, step)

    assert torch.equal(trained[0].weight, other[0].weight)
