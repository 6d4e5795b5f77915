"""The parts of Mask R-CNN, each against another way to compute the same."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from compress.boxes import overlaps
from compress.criteria.regions import binary_divergence, mask_goals
from compress.networks.regions.anchors import anchors
from compress.networks.regions.config import ANCHOR_SPREAD, STAGE_SPREADS, from_dict
from compress.networks.regions.matching import anchor_goals, region_goals, some
from compress.networks.regions.nms import kept
from compress.networks.regions.offsets import moved, offsets_between
from compress.networks.regions.roi_align import levels_of, pooled
from tests.compress import tiny_regions

SWEEPS = 21


def clustered(count: int, objects: int, spread: float, seed: int) -> Tensor:
    """Return boxes around a few places, in no order."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(objects, 4, generator=generator) * torch.tensor([500.0, 500, 200, 200])
    picked = places[torch.randint(objects, (count,), generator=generator)]
    shifts = torch.randn(count, 4, generator=generator) * spread
    corner = picked[:, :2] + shifts[:, :2] * picked[:, 2:]
    return torch.cat([corner, corner + (picked[:, 2:] + 10) * shifts[:, 2:].exp()], dim=1)


def greedy(boxes: Tensor, threshold: float, groups: Tensor | None = None) -> list[int]:
    """Suppress one box after the other, as the algorithm is told."""
    stays: list[int] = []
    shared = overlaps(boxes, boxes)
    for box in range(len(boxes)):
        rivals = [o for o in stays if groups is None or groups[o] == groups[box]]
        if all(shared[other, box] <= threshold for other in rivals):
            stays.append(box)
    return stays


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize(("objects", "spread"), [(1, 0.1), (3, 0.3), (30, 0.1), (200, 0.2)])
def test_suppression_at_once_keeps_what_the_greedy_loop_keeps(threshold, objects, spread):
    boxes = torch.stack([clustered(300, objects, spread, seed) for seed in range(3)])

    answers = kept(boxes, threshold, SWEEPS)

    assert set(answers.unique().tolist()) <= {0.0, 1.0}
    for some_boxes, answer in zip(boxes, answers, strict=True):
        assert answer.nonzero()[:, 0].tolist() == greedy(some_boxes, threshold)


def test_boxes_suppress_those_of_their_own_group_only():
    boxes = clustered(200, 5, 0.1, seed=0)
    groups = torch.arange(200) % 3

    answers = kept(boxes, 0.5, SWEEPS, groups)

    assert answers.nonzero()[:, 0].tolist() == greedy(boxes, 0.5, groups)
    assert answers.sum() > kept(boxes, 0.5, SWEEPS).sum()


def test_a_chain_that_is_longer_than_the_sweeps_loses_boxes_and_keeps_no_duplicate():
    # Each overlaps the next one alone, so every second one is kept.
    starts = torch.arange(20.0) * 4
    boxes = torch.stack([starts, torch.zeros(20), starts + 10, torch.full((20,), 10.0)], dim=1)
    everything = greedy(boxes, 0.4)
    assert everything == list(range(0, 20, 2))

    few = kept(boxes, 0.4, sweeps=5).nonzero()[:, 0].tolist()

    assert few == [0, 2, 4]
    assert kept(boxes, 0.4, sweeps=19).nonzero()[:, 0].tolist() == everything


def pyramid(batch: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 8, 96 // s, 128 // s, generator=generator) for s in (4, 8, 16, 32)]


def regions(batch: int, count: int, seed: int) -> Tensor:
    """Return boxes of all sizes, some of which reach out of the picture."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([128.0, 96.0])
    corner = torch.rand(batch, count, 2, generator=generator) * size * 1.2 - 10
    sides = torch.rand(batch, count, 2, generator=generator) ** 3 * size * 1.5
    return torch.cat([corner, corner + sides], dim=2)


def roi_align_of_onnx(features: Tensor, boxes: Tensor, pictures: Tensor, stride: int, side: int):
    """Compute one map's regions by the reference runtime's operator."""
    node = helper.make_node(
        "RoiAlign",
        ["x", "rois", "batch"],
        ["y"],
        output_height=side,
        output_width=side,
        sampling_ratio=2,
        spatial_scale=1 / stride,
        coordinate_transformation_mode="half_pixel",
    )
    shapes = {"x": None, "rois": None}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in shapes
    ]
    inputs.append(helper.make_tensor_value_info("batch", TensorProto.INT64, None))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {"x": features.numpy(), "rois": boxes.numpy(), "batch": pictures.numpy()}
    return torch.from_numpy(session.run(None, feeds)[0])


@pytest.mark.parametrize("side", [7, 14])
def test_regions_are_read_as_the_onnx_operator_reads_them(side):
    maps, boxes = pyramid(2, seed=0), regions(2, 60, seed=1)

    came = pooled(maps, (4, 8, 16, 32), boxes, side, first_px=16.0)

    levels = levels_of(boxes, 16.0, 4).reshape(-1)
    pictures = torch.arange(2).repeat_interleave(60)
    expected = torch.stack(
        [
            roi_align_of_onnx(features, boxes.reshape(-1, 4), pictures, stride, side)
            for features, stride in zip(maps, (4, 8, 16, 32), strict=True)
        ]
    )[levels, torch.arange(120)]
    assert levels.unique().tolist() == [0, 1, 2, 3]
    assert expected.std() > 0.1
    torch.testing.assert_close(came, expected, rtol=0, atol=2e-5)


class Pooled(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, boxes: Tensor) -> Tensor:
        return pooled([a, b, c, d], (4, 8, 16, 32), boxes, 7, 16.0)


@pytest.mark.filterwarnings("ignore::")
def test_regions_are_exported_as_four_operators_for_any_batch(tmp_path: Path):
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        Pooled().eval(),
        (*pyramid(2, seed=0), regions(2, 30, seed=0)),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=(batch,) * 5,
        verbose=False,
    )
    program.save(tmp_path / "pooled.onnx")

    kinds = [node.op_type for node in onnx.load(tmp_path / "pooled.onnx").graph.node]
    assert kinds.count("RoiAlign") == 4
    assert not {"If", "Loop", "NonZero", "GridSample"} & set(kinds)
    session = onnxruntime.InferenceSession(tmp_path / "pooled.onnx")
    given = (*pyramid(3, seed=2), regions(3, 30, seed=3))
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in zip(names, given, strict=True)}
    (came,) = session.run(None, feeds)
    np.testing.assert_allclose(came, Pooled()(*given).numpy(), rtol=0, atol=2e-5)


def test_gradients_reach_what_a_region_is_read_from():
    maps = [features.double().float().requires_grad_() for features in pyramid(1, seed=0)]
    inside = torch.tensor([[[20.0, 20, 28, 28]]])

    pooled(maps, (4, 8, 16, 32), inside, 7, first_px=16.0).sum().backward()

    touched = maps[0].grad[0].abs().sum(dim=0) > 0  # type: ignore[index]
    rows, columns = touched.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 4, 7)
    # Every output is a weighted mean, 49 of them in each of 8 channels.
    assert maps[0].grad.sum().item() == pytest.approx(49 * 8, rel=1e-4)  # type: ignore[union-attr]


def test_anchors_of_a_small_input_by_hand():
    config = from_dict({**tiny_regions.ARCHITECTURE, "anchor_side": 8.0})
    levels = anchors(config)

    assert [len(boxes) for boxes in levels] == [3 * n for n in (16 * 24, 8 * 12, 4 * 6, 2 * 3, 2)]
    # Twice as wide as high, square, twice as high as wide, around the first place.
    root = 2**0.5
    expected = [
        [-16 * root, -8 * root, 16 * root, 8 * root],
        [-16, -16, 16, 16],
        [-8 * root, -16 * root, 8 * root, 16 * root],
    ]
    torch.testing.assert_close(levels[0][:3], torch.tensor(expected))
    # The next place is to the right, the next row a stride below.
    torch.testing.assert_close(levels[1][4], torch.tensor([8.0 - 32, -32, 8 + 32, 32]))
    torch.testing.assert_close(levels[1][3 * 12 + 1], torch.tensor([-32.0, 8 - 32, 32, 8 + 32]))


@pytest.mark.parametrize("spread", [ANCHOR_SPREAD, *STAGE_SPREADS])
def test_offsets_move_a_box_onto_its_goal(spread):
    boxes = clustered(50, 5, 0.3, seed=0).clamp(0, 400)
    goals = clustered(50, 50, 0.3, seed=1).clamp(0, 400)
    wide = ((goals[:, 2:] - goals[:, :2]) > 1).all(1) & ((boxes[:, 2:] - boxes[:, :2]) > 1).all(1)
    assert wide.sum() > 20

    came = moved(boxes, offsets_between(boxes, goals, spread), spread, (400, 400))

    torch.testing.assert_close(came[wide], goals[wide], rtol=0, atol=1e-2)


def test_an_untrained_network_cannot_blow_a_box_up():
    box = torch.tensor([[100.0, 100, 110, 110]])

    came = moved(box, torch.full((1, 4), 50.0), ANCHOR_SPREAD, (400, 300))

    assert torch.isfinite(came).all()
    assert (came >= 0).all()
    assert (came[:, 2] <= 300).all()
    assert (came[:, 3] <= 400).all()


def test_anchors_learn_the_objects_that_they_fit_and_the_background():
    levels = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [40, 40, 50, 50], [3, 0, 13, 10]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 1, 1]]])

    goals, offsets = anchor_goals(levels, boxes, torch.tensor([[4, -1]]), 8, ANCHOR_SPREAD)

    # The last overlaps by 0.54: neither one nor the other.
    assert goals.tolist() == [[1, 1, 0, -1]]
    assert offsets[0, 0].abs().max() == 0
    assert offsets[0, 1, 3].item() == pytest.approx(np.log(10 / 9), rel=1e-5)


def test_every_object_gets_the_anchor_that_fits_it_best():
    levels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[[0.0, 0, 10, 5]]])

    goals, _ = anchor_goals(levels, boxes, torch.tensor([[0]]), 8, ANCHOR_SPREAD)

    assert goals.tolist() == [[1, 0]]


def test_a_picture_without_objects_teaches_background_alone():
    levels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    nothing = torch.zeros(1, 1, 4)

    goals, _ = anchor_goals(levels, nothing, torch.tensor([[-1]]), 8, ANCHOR_SPREAD)
    places = region_goals(
        levels[None], torch.ones(1, 2).bool(), (nothing, torch.tensor([[-1]])), 0.5, 8
    )

    assert goals.tolist() == [[0, 0]]
    assert places.tolist() == [[-1, -1]]


def test_samples_have_a_fixed_size_and_repeat_with_the_seed():
    boxes = torch.tensor([[[0.0, 0, 10, 10]]]).expand(3, -1, -1)
    labels = torch.zeros(3, 1, dtype=torch.long)
    fitting = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 100, 4)
    away = torch.tensor([[50.0, 50, 60, 60]]).expand(3, 100, 4)
    everywhere = torch.cat([fitting, away], dim=1)
    valid = torch.ones(3, 200, dtype=torch.bool)
    valid[0, 100:190] = False

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return region_goals(everywhere, valid, (boxes, labels), 0.5, 40)

    first = drawn(0)
    # A quarter shows objects; where background is short, the sample is smaller.
    assert (first == 0).sum(dim=1).tolist() == [10, 10, 10]
    assert (first == -1).sum(dim=1).tolist() == [10, 30, 30]
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))


def test_some_are_drawn_before_what_fills_the_sample_up():
    wanted = torch.zeros(2, 20, dtype=torch.bool)
    wanted[0, [3, 7]] = True
    wanted[1] = True

    places, there = some(wanted, 4)

    assert set(places[0][there[0]].tolist()) == {3, 7}
    assert there.sum(dim=1).tolist() == [2, 4]


def test_masks_are_cut_out_where_a_box_lies():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 1, 2:6, 0:4] = True
    boxes = torch.tensor([[[0.0, 0, 8, 8], [2, 2, 6, 6], [4, 4, 12, 12]]])
    objects = torch.tensor([[1, 1, 1]])
    whole = torch.tensor([0.0, 0, 8, 8]).expand(1, 3, 4)

    cuts = mask_goals(masks, objects, whole, boxes, 4)[0]

    rows = [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert cuts[0].tolist() == rows
    assert cuts[1].tolist() == [[1, 1, 0, 0]] * 4
    assert cuts[2].sum() == 0


def test_masks_within_their_boxes_are_cut_like_those_of_the_whole_picture():
    inside = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    inside[0, 0, :, :2] = True
    whole = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    whole[0, 0, 8:24, 4:12] = True
    region = torch.tensor([[[2.0, 6, 18, 26]]])
    objects = torch.zeros(1, 1, dtype=torch.long)

    ours = mask_goals(inside, objects, torch.tensor([[[4.0, 8, 20, 24]]]), region, 28)
    theirs = mask_goals(whole, objects, torch.tensor([[[0.0, 0, 32, 32]]]), region, 28)

    assert 0.2 < theirs.mean() < 0.5
    assert torch.equal(ours, theirs)


def test_two_answers_of_yes_and_no_are_apart_by_their_divergence():
    ours, theirs = torch.tensor([0.3, -2.0]), torch.tensor([1.0, -2.0])

    came = binary_divergence(ours, theirs)

    p, q = theirs.sigmoid()[0], ours.sigmoid()[0]
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(came, torch.stack([expected, torch.zeros(())]), rtol=1e-4, atol=1e-6)
