import itertools
import math

import pytest
import torch

from compress.boxes import giou, paired_giou, to_xyxy
from compress.criteria.queries import SetCriterion

SIDES = torch.tensor([64.0, 48.0, 64.0, 48.0])
KINDS = pytest.mark.parametrize("criterion", [SetCriterion(), SetCriterion(sigmoid=True)])


def outputs(
    criterion: SetCriterion, *, seed: int = 0, pictures: int = 2
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    classes = 3 if criterion.sigmoid else 4
    return {
        "logits": 2 * torch.randn(pictures, 5, classes, generator=generator),
        "boxes": torch.rand(pictures, 5, 4, generator=generator) * 0.4 + 0.2,
        "sides": SIDES,
    }


def saying(
    criterion: SetCriterion, labels: list[int], boxes: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return outputs that are sure of each label; -1 is nothing."""
    logits = torch.full((1, len(labels), 3 if criterion.sigmoid else 4), -9.0)
    for query, label in enumerate(labels):
        if label >= 0 or not criterion.sigmoid:
            logits[0, query, label] = 9.0
    return {"logits": logits, "boxes": boxes[None], "sides": SIDES}


def targets(labels: list[list[int]], boxes: list[list[list[float]]]) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor(labels), "boxes": torch.tensor(boxes)}


BOXES = torch.tensor([[0.25, 0.25, 0.2, 0.3], [0.5, 0.5, 0.1, 0.1], [0.7, 0.6, 0.3, 0.2]])


def test_overlap_by_hand():
    one, other = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])

    # 1 of 7 shared; 2 of the 9 of the hull are in neither.
    assert paired_giou(one, other).item() == pytest.approx(1 / 7 - 2 / 9)
    assert paired_giou(one, one).item() == pytest.approx(1)
    assert paired_giou(one, one + 4).item() < -0.7
    assert giou(one[None, None], torch.stack([one, other])[None]).shape == (1, 1, 2)


def test_an_empty_box_overlaps_with_nothing_and_gives_no_nan():
    empty = torch.zeros(4, requires_grad=True)

    overlap = paired_giou(empty, torch.zeros(4))
    overlap.backward()

    assert torch.isfinite(overlap)
    assert torch.isfinite(empty.grad).all()


@KINDS
def test_the_right_answer_costs_next_to_nothing_and_any_other_one_more(criterion):
    right = targets([[2, 0]], [(to_xyxy(BOXES[[2, 0]]) * SIDES).tolist()])

    found = criterion.hard(saying(criterion, [0, -1, 2], BOXES), right)

    assert found.item() < 1e-3
    for labels in ([2, -1, 0], [0, 2, -1], [-1, -1, -1], [0, 1, 2]):
        assert criterion.hard(saying(criterion, labels, BOXES), right) > found + 0.1
    moved = saying(criterion, [0, -1, 2], BOXES + 0.05)
    assert criterion.hard(moved, right) > found + 0.1


@KINDS
def test_objects_are_matched_to_queries_at_the_lowest_cost_of_all_permutations(criterion):
    came = outputs(criterion, pictures=1)
    wanted, labels = torch.tensor([[[0.3, 0.4, 0.2, 0.2], [0.6, 0.5, 0.3, 0.1]]]), [0, 2]

    def cost(query: int, place: int) -> float:
        ours, theirs = came["boxes"][0, query], wanted[0, place]
        logits = came["logits"][0, query]
        classes = -logits.softmax(dim=0)[labels[place]].item()
        if criterion.sigmoid:
            p = logits.sigmoid()[labels[place]].item()
            classes = 2 * (-0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p))
        overlap = paired_giou(to_xyxy(ours), to_xyxy(theirs)).item()
        return classes + 5 * (ours - theirs).abs().sum().item() - 2 * overlap

    _, queries, places = criterion._matched(came, torch.tensor([labels]), wanted)

    best = min(
        itertools.permutations(range(5), 2),
        key=lambda chosen: sum(cost(query, place) for place, query in enumerate(chosen)),
    )
    assert dict(zip(places.tolist(), queries.tolist(), strict=True)) == dict(enumerate(best))


@KINDS
def test_padding_changes_nothing(criterion):
    came = outputs(criterion)
    boxes = torch.tensor([[[5.0, 6, 20, 30]], [[8.0, 2, 40, 9]]])
    short = {"labels": torch.tensor([[0], [2]]), "boxes": boxes}
    long = {
        "labels": torch.tensor([[-1, 0, -1], [2, -1, -1]]),
        "boxes": torch.stack(
            [torch.stack([boxes[0, 0] * 0, boxes[0, 0], boxes[0, 0] * 0]), boxes[1].repeat(3, 1)]
        ),
    }

    assert criterion.hard(came, long).item() == pytest.approx(criterion.hard(came, short).item())


@KINDS
def test_pictures_without_objects_teach_that_there_is_nothing(criterion):
    nothing = {"labels": torch.full((2, 0), -1), "boxes": torch.zeros(2, 0, 4)}
    came = outputs(criterion)
    came["logits"].requires_grad_(True)

    criterion.hard(came, nothing).backward()

    assert torch.isfinite(came["logits"].grad).all()
    assert criterion.hard(saying(criterion, [-1, -1, -1], BOXES), nothing) < 1e-3


@KINDS
def test_outputs_that_are_no_numbers_give_a_loss_that_is_none(criterion):
    diverged = {name: value * math.nan for name, value in outputs(criterion).items()}
    right = targets([[2], [1]], [[[5.0, 6, 20, 30]], [[8.0, 2, 40, 9]]])

    assert criterion.hard({**diverged, "sides": SIDES}, right).isnan()


@KINDS
def test_equal_outputs_differ_in_nothing_and_agree_everywhere(criterion):
    one = outputs(criterion)

    assert criterion.soft(one, one, 1.0).item() == pytest.approx(0, abs=1e-5)
    assert criterion.agreement(one, one).tolist() == [1, 1]
    assert criterion.soft(outputs(criterion, seed=1), one, 1.0) > 0.1


@KINDS
def test_a_query_counts_in_the_soft_loss_by_the_teachers_confidence(criterion):
    teacher = saying(criterion, [1, -1, -1], BOXES)
    sure, unsure = BOXES.clone(), BOXES.clone()
    sure[0] += 0.1
    unsure[1] += 0.1

    losses = [
        criterion.soft(saying(criterion, [1, -1, -1], boxes), teacher, 1.0).item()
        for boxes in (sure, unsure)
    ]

    assert losses[0] > 0.1
    assert losses[1] < 0.01


@KINDS
def test_agreement_is_over_the_objects_of_the_teacher(criterion):
    teacher = saying(criterion, [1, 2, -1], BOXES)

    assert criterion.agreement(saying(criterion, [1, 0, 0], BOXES), teacher).tolist() == [0.5]
    nothing = saying(criterion, [-1, -1, -1], BOXES)
    one = saying(criterion, [-1, 1, -1], BOXES)
    assert criterion.agreement(one, nothing).tolist() == [pytest.approx(2 / 3)]


@KINDS
def test_the_teachers_sure_objects_are_the_labels_where_there_are_none(criterion):
    teacher = saying(criterion, [1, -1, 2], BOXES)

    labels = criterion.predicted(teacher)

    assert labels["labels"].tolist() == [[1, -1, 2]]
    assert criterion.hard(teacher, labels) < 1e-3


def test_temperature_softens_both_sides():
    criterion = SetCriterion()
    one, other = outputs(criterion), outputs(criterion, seed=1)
    other["boxes"] = one["boxes"]

    warm = criterion.soft(one, other, 4.0)

    assert warm > 0
    assert warm.item() != pytest.approx(criterion.soft(one, other, 1.0).item(), rel=1e-3)


def proposing(seed: int) -> dict[str, torch.Tensor]:
    """Return outputs of a network of two stages, and what its first one proposes."""
    criterion, one_class = (
        SetCriterion(sigmoid=True),
        outputs(SetCriterion(sigmoid=True), seed=9 + seed),
    )
    return {
        **outputs(criterion, seed=seed),
        "proposal_logits": one_class["logits"][..., :1],
        "proposal_boxes": one_class["boxes"],
    }


def test_proposals_are_compared_as_a_set_of_one_class():
    criterion = SetCriterion(sigmoid=True)
    came, right = proposing(0), targets([[2, -1], [1, 0]], torch.rand(2, 2, 4).cumsum(-1).tolist())
    plain = {name: came[name] for name in ("logits", "boxes", "sides")}
    first = {
        "logits": came["proposal_logits"],
        "boxes": came["proposal_boxes"],
        "sides": came["sides"],
    }
    anything = {**right, "labels": right["labels"].clamp(max=0)}

    expected = criterion.hard(plain, right) + criterion.hard(first, anything)

    assert criterion.hard(came, right).item() == pytest.approx(expected.item(), rel=1e-6)
    assert criterion.soft(came, came, 1.0).item() == pytest.approx(0, abs=1e-5)
    other = {**came, "proposal_boxes": came["proposal_boxes"] + 0.1}
    assert criterion.soft(other, came, 1.0) > 0.1
