"""What a refused export is told to change is what its recipe can change."""

import pytest

from compress import advice
from tests.compress import tiny


def told(tmp_path, **changes):
    return advice.after_refusal(tiny.recipe(tmp_path, **changes))


def test_training_longer_is_told_with_the_epochs_that_there_were(tmp_path):
    recipe = tiny.recipe(tmp_path)

    assert f"quantize.schedule.epochs above {recipe.quantize.schedule.epochs:g}" in told(tmp_path)


@pytest.mark.parametrize("votes", [False, True])
def test_boxes_that_do_not_vote_are_told_to(tmp_path, votes):
    network = {"family": "mask_rcnn", "architecture": {"box_voting": votes}}

    said = told(tmp_path, network=network, task="detect", quantize__placement="gemm+add")

    assert "quantize.placement: gemm" in said
    assert ("network.architecture.box_voting: true" in said) is not votes
