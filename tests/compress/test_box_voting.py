"""Box voting: an object's box does not depend on which of several near ones stays."""

import torch

from compress.boxes import overlaps
from compress.networks.regions.detections import voted
from tests.compress.test_regions import clustered

LABELS = torch.zeros(1, 200, dtype=torch.int64)


def test_boxes_of_one_object_all_become_nearly_the_same_box():
    boxes = clustered(200, 1, 0.05, seed=0)[None]
    scores = torch.rand(1, 200, generator=torch.Generator().manual_seed(1))

    found = voted(boxes, scores, LABELS, 0.5)

    before, after = (overlaps(of, of)[0].min() for of in (boxes, found))
    assert before < 0.8
    assert after > 0.95


def test_a_box_alone_stays_where_it_is():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [100, 100, 120, 130], [0, 0, 0, 0]]])

    found = voted(boxes, torch.tensor([[0.9, 0.0, 0.0]]), LABELS[:, :3], 0.5)

    torch.testing.assert_close(found, boxes)


def test_those_of_another_class_or_place_have_no_vote():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])

    apart = voted(boxes, scores, torch.tensor([[0, 1, 0]]), 0.5)
    together = voted(boxes, scores, torch.tensor([[0, 0, 0]]), 0.5)

    torch.testing.assert_close(apart, boxes)
    # The mean by score of the first two, by hand.
    torch.testing.assert_close(together[0, 0, 0], torch.tensor(0.8 / 1.7))
    torch.testing.assert_close(together[0, 0], together[0, 1])
    torch.testing.assert_close(together[0, 2], boxes[0, 2])
