"""Mask R-CNN and its cascade: learnt by heart, taught, quantised, exported and loaded."""

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from compress.boxes import overlaps
from compress.errors import RecipeError
from compress.networks import FAMILIES, left, mask_rcnn
from compress.networks.region_detector import RegionDetector
from compress.pairing import pairs
from tests.compress import graphs, tiny_regions
from tests.compress.tiny_regions import answers, shaken

CRITERION = mask_rcnn.FAMILY.criterion
PUBLISHED_CASCADE = {"stages": 3, "box_convs": 2, "box_linears": 1, "box_norm": True}
Graph = tuple[RegionDetector, Path, Counter[str]]
SIDES = torch.tensor([96.0, 64.0, 96.0, 64.0])


@pytest.fixture(scope="module")
def losses() -> list[float]:
    return []


@pytest.fixture(scope="module")
def trained(losses: list[float]) -> RegionDetector:
    network = tiny_regions.network(stages=2, class_agnostic=True)
    losses.extend(tiny_regions.train(network, 120))
    return network


def test_two_pictures_are_learnt_by_heart(trained, losses):
    images, targets = tiny_regions.rectangles()

    found = answers(trained, images)

    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    for picture, objects in ((0, 2), (1, 1)):
        boxes = found["boxes"][picture, :objects] * SIDES
        fits, places = overlaps(boxes, targets["boxes"][picture]).max(dim=1)
        assert sorted(places.tolist()) == list(range(objects))
        assert fits.min() > 0.5
        labels = targets["labels"][picture, places]
        assert found["labels"][picture, :objects].tolist() == labels.tolist()
        assert found["scores"][picture, :objects].min() > 0.5
        # The left half of every rectangle is its mask.
        masks = found["masks"][picture, :objects]
        assert masks[:, 6:22, 3:10].min(dim=0).values.mean() > 0.7
        assert masks[:, 6:22, 18:25].mean() < 0.3


def test_answers_follow_the_graph_contract(trained):
    images, _ = tiny_regions.rectangles()

    found = answers(trained, images)

    assert tuple(found) == trained.outputs == ("scores", "labels", "boxes", "masks")
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
    assert shapes == {
        "scores": ((2, 10), torch.float32),
        "labels": ((2, 10), torch.int32),
        "boxes": ((2, 10, 4), torch.float32),
        "masks": ((2, 10, 28, 28), torch.float32),
    }
    assert (found["scores"].diff(dim=1) <= 0).all()
    least = trained.body.config.least_score
    assert not ((found["scores"] > 0) & (found["scores"] <= least)).any()
    for name in ("scores", "boxes", "masks"):
        assert found[name].min() >= 0
        assert found[name].max() <= 1


def test_a_picture_is_answered_alike_whatever_is_beside_it(trained):
    images, _ = tiny_regions.rectangles()

    together, alone = answers(trained, images), answers(trained, images[1:])

    for name in trained.outputs:
        torch.testing.assert_close(together[name][1:], alone[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("agnostic", [True, False])
def test_every_weight_learns_from_labels(stages, agnostic):
    network = tiny_regions.network(stages=stages, class_agnostic=agnostic).train()
    images, targets = tiny_regions.rectangles()

    CRITERION.hard(network(images, network.hint(None, targets)), targets).backward()

    idle = [name for name, one in network.named_parameters() if one.grad is None]
    still = [name for name, one in network.named_parameters() if not one.grad.abs().sum()]
    assert idle == []
    # A bias of keys moves all scores of a query alike.
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("labelled", [True, False])
def test_every_weight_learns_from_a_teacher(trained, labelled):
    images, targets = tiny_regions.rectangles()
    student = shaken(copy.deepcopy(trained)).train()
    with torch.no_grad():
        taught = trained(images)

    came = student(images, trained.hint(taught, targets if labelled else None))
    loss = CRITERION.soft(came, taught, 2.0)
    if labelled:
        loss = loss + CRITERION.hard(came, targets)
    loss.backward()

    assert loss > 0
    assert [name for name, one in student.named_parameters() if one.grad is None] == []


def test_a_student_that_is_its_teacher_loses_nothing(trained):
    images, targets = tiny_regions.rectangles()
    with torch.no_grad():
        taught = trained(images)
        came = trained(images, trained.hint(taught, targets))
        strange = shaken(copy.deepcopy(trained))(images, trained.hint(taught, targets))

    assert CRITERION.soft(came, taught, 2.0).item() == pytest.approx(0, abs=1e-5)
    assert CRITERION.agreement(came, taught).tolist() == [1, 1]
    assert CRITERION.soft(strange, taught, 2.0) > 0.01


def test_agreement_counts_the_objects_of_the_teacher(trained):
    images, _ = tiny_regions.rectangles()
    with torch.no_grad():
        taught = trained(images)
    other = {**taught, **{f"logits.{s}": taught[f"logits.{s}"].clone() for s in (0, 1)}}
    for stage in (0, 1):
        other[f"logits.{stage}"][0, :, 0] -= 1000

    agreed = CRITERION.agreement(other, taught)

    mean = torch.stack([taught["logits.0"], taught["logits.1"]]).mean(dim=0)
    answered = mean.argmax(dim=2)[0][taught["valid"][0]]
    objects = (answered < 2).sum()
    assert agreed[0].item() == pytest.approx(((answered == 1).sum() / objects).item())
    assert 0 < agreed[0] < 1
    assert agreed[1] == 1


def test_where_labels_lack_the_teachers_detections_are_the_labels(trained):
    images, targets = tiny_regions.rectangles()
    with torch.no_grad():
        taught = trained(images)

    predicted = CRITERION.predicted(taught)

    assert (predicted["labels"] >= 0).sum(dim=1).tolist() == [2, 1]
    torch.testing.assert_close(predicted["boxes"][1, 0], targets["boxes"][1, 0], rtol=0, atol=4)
    with torch.no_grad():
        came = trained(images, trained.hint(taught, predicted))
        untrained = tiny_regions.network(stages=2, class_agnostic=True)
        strange = untrained(images, trained.hint(taught, predicted))
    assert CRITERION.hard(came, predicted) < 0.5 * CRITERION.hard(strange, predicted)


def test_pictures_without_any_object_can_be_learnt_from():
    network = tiny_regions.network().train()
    images, _ = tiny_regions.rectangles()
    nothing = {
        "boxes": torch.zeros(2, 0, 4),
        "labels": torch.zeros(2, 0, dtype=torch.long),
        "masks": torch.zeros(2, 0, *tiny_regions.SIZE_PX, dtype=torch.bool),
    }

    loss = CRITERION.hard(network(images, network.hint(None, nothing)), nothing)
    loss.backward()

    assert torch.isfinite(loss)
    assert all(one.grad is not None for one in network.parameters())


def test_weights_that_are_no_numbers_give_a_loss_that_is_none():
    network = tiny_regions.network()
    images, targets = tiny_regions.rectangles()
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(torch.nan)

        found = network(images, network.hint(None, targets))

    assert CRITERION.hard(found, targets).isnan()


def test_the_same_seed_draws_the_same_samples():
    network = shaken(tiny_regions.network())
    images, targets = tiny_regions.rectangles()

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        with torch.no_grad():
            return float(CRITERION.hard(network(images, network.hint(None, targets)), targets))

    assert loss(0) == loss(0) != loss(1)


def test_every_layer_has_a_role_and_what_stays_dense_a_reason():
    body = tiny_regions.network(**PUBLISHED_CASCADE).body

    layers = FAMILIES["cascade_mask_rcnn"].layers(body)

    weighted = {n for n, m in body.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert {layer.name for layer in layers} == weighted
    assert len(layers) == len(weighted)
    assert all(bool(layer.reason) != layer.prune for layer in layers)
    outside = [layer.name for layer in layers if layer.prune and "backbone" not in layer.name]
    laterals = [f"neck.laterals.{index}" for index in range(4)]
    assert outside == laterals + [f"box_heads.{stage}.linears.0" for stage in range(3)]
    for layer in layers:
        # Groups of four lie along the flattened inputs.
        assert body.get_submodule(layer.name).weight[0].numel() % 4 == 0 or not layer.prune
    floats = {entry.name: entry.reason for entry in left("cascade_mask_rcnn", body)}
    assert "transposed convolution" in floats["mask_heads.2.enlarge.weight"]
    assert {name.rpartition(".")[2] for name in floats} == {
        "weight",
        "relative_position_bias_table",
    }
    assert sum(name.endswith(".weight") for name in floats) == 3


def test_layers_run_in_the_order_in_which_they_are_named(trained):
    images, _ = tiny_regions.rectangles()
    names = [f"body.{layer.name}" for layer in mask_rcnn.layers(trained.body)]

    assert graphs.running_order(trained, names, images) == names


def test_feature_maps_are_those_of_blocks_and_of_the_pyramid(trained):
    images, _ = tiny_regions.rectangles()
    names = [f"body.{name}" for name in mask_rcnn.blocks(trained.body)]

    assert list(graphs.maps(trained, names, images).values()) == [
        *[(2, n, c) for n, c in ((384, 16), (96, 32), (24, 64), (6, 128))],
        *[(2, h, w, 32) for h, w in ((16, 24), (8, 12), (4, 6), (2, 3))],
    ]


@pytest.fixture(scope="module")
def graph(trained: RegionDetector, tmp_path_factory: Any) -> Graph:
    images, _ = tiny_regions.rectangles()
    student = copy.deepcopy(trained)
    graphs.quantize(student, mask_rcnn.FAMILY, images)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    operators = graphs.export(student, tiny_regions.SIZE_PX, path)
    return student, path, operators


def same_objects(expected: dict[str, npt.NDArray[Any]], came: dict[str, npt.NDArray[Any]]) -> None:
    """Pair objects by class and place, since near ties may come in another order."""
    for picture in range(len(expected["scores"])):
        found = pairs(expected, came, picture)
        assert found
        for pair in found:
            assert pair.overlap > 0.95
            assert pair.apart < 0.02
        # The best objects are no tie, and their masks lie beside each other.
        masks, other = expected["masks"][picture, 0], came["masks"][picture, 0]
        assert np.abs(masks - other).mean() < 0.02


@pytest.mark.slow
def test_a_quantised_graph_answers_as_its_network_for_any_batch(graph):
    student, path, _ = graph
    images, _ = tiny_regions.rectangles()

    for given in (images, images[1:], torch.cat([images, images[:1]])):
        came, expected = graphs.run(path, given), graphs.answer(student, given)
        shapes = {name: (value.shape, value.dtype) for name, value in expected.items()}
        assert {name: (value.shape, value.dtype) for name, value in came.items()} == shapes
        same_objects(expected, came)


@pytest.mark.slow
def test_a_graph_has_no_operator_whose_size_depends_on_data(graph):
    _, _, operators = graph

    assert not graphs.FORBIDDEN & operators.keys()
    # Both heads of both stages and the masks read four maps.
    assert operators["RoiAlign"] == 4 * 3
    assert operators["QuantizeLinear"] > 0


@pytest.mark.slow
def test_a_graph_runs_in_openvino(graph):
    student, path, _ = graph
    images, _ = tiny_regions.rectangles()

    same_objects(graphs.answer(student, images), graphs.run_openvino(path, images))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chanels": 32}, "Mask R-CNN has no chanels"),
        ({"backbone": {"depth": 3}}, "SwinConfig has no depth"),
        ({"backbone": {"depths": 4}}, "cannot be built: Validation error for field 'depths'"),
        ({"backbone": "swin"}, "backbone: expected keywords, got 'swin'"),
        ({"backbone": {"image_size": 64}}, "expected no image_size, which belongs beside"),
        ({"backbone": {"depths": [1, 1], "num_heads": [1, 2]}}, "4 stages and patch_size 4, got 2"),
        ({"image_size": [64] * 3}, "expected height and width, or one number for both, got [64"),
        ({"image_size": 0}, "expected height and width, or one number for both, got 0"),
        ({"candidates": "many"}, "candidates: expected a whole number from 1 on, got 'many'"),
        ({"sampled_masks": -1}, "sampled_masks: expected a whole number from 1 on, got -1"),
        ({"box_norm": 1}, "box_norm: expected true or false, got 1"),
        ({"least_score": "low"}, "least_score: expected a number from 0 on, got 'low'"),
        ({"sweeps": 8}, "sweeps: expected an odd number, got 8"),
        ({"stages": 4}, "stages: expected 1 to 3, got 4"),
        ({"proposals": 4000}, "proposals: expected 1 to 3839"),
        ({"detections": 51}, "51 detections cannot be chosen among 50 candidates"),
    ],
)
def test_settings_that_make_no_network_are_refused_with_what_was_expected(changes, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        mask_rcnn.build({**tiny_regions.ARCHITECTURE, **changes})


def test_a_cascade_has_three_stages_unless_a_recipe_says_otherwise():
    body = mask_rcnn.build_cascade(tiny_regions.ARCHITECTURE)
    assert (len(body.box_heads), len(body.mask_heads)) == (3, 3)
    assert body.box_heads[0].offsets.out_features == 4

    other = mask_rcnn.build_cascade({**tiny_regions.ARCHITECTURE, "class_agnostic": False})
    assert other.box_heads[0].offsets.out_features == 8
