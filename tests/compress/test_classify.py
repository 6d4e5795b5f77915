from contextlib import nullcontext

import pytest
import torch

from compress.errors import CompressError, DataError, RecipeError
from compress.tasks.classify import Classification, blended
from contract.errors import CardError
from tests.compress import tiny


@pytest.fixture
def folder(tmp_path):
    tiny.write_pictures(tmp_path / "train", each=5)
    tiny.write_pictures(tmp_path / "test", each=2)
    return tmp_path


def test_blending_depends_on_the_seed_and_the_step_alone():
    images = tiny.pictures(8)

    first = blended(images, 0.5, (3, 7))
    torch.rand(5)

    assert torch.equal(first, blended(images, 0.5, (3, 7)))
    assert not torch.equal(first, blended(images, 0.5, (3, 8)))
    assert not torch.equal(first, blended(images, 0.5, (4, 7)))


def test_a_blend_lies_between_its_two_pictures():
    images = tiny.pictures(8)
    floats = images.float()

    mixed = blended(images, 1.0, (0, 0))

    assert mixed.dtype == torch.float32
    # One float32 rounding of numbers up to 255.
    other = floats[[1, 0, 3, 2, 5, 4, 7, 6]]
    assert (mixed >= torch.minimum(floats, other) - 1e-4).all()
    assert (mixed <= torch.maximum(floats, other) + 1e-4).all()
    assert mixed.min() >= 0
    assert mixed.max() <= 255


def test_a_part_of_a_batch_is_blended_as_in_the_whole():
    images = tiny.pictures(7)

    whole = blended(images, 0.8, (1, 2))

    for first in (0, 2, 4):
        assert torch.equal(blended(images[first:], 0.8, (1, 2), first), whole[first:])
    # The last of seven has no neighbour.
    assert torch.equal(whole[6], images[6].float())


def test_the_share_says_how_many_pictures_are_blended():
    images = tiny.pictures(400)

    untouched = (blended(images, 0.3, (0, 0)) == images.float()).flatten(1).all(dim=1)

    # 400 draws at 0.7: a standard deviation of 9; the seed is fixed.
    assert 250 <= int(untouched.sum()) <= 310


def test_labels_come_with_labelled_pictures(folder):
    task = Classification(tiny.recipe(folder))
    (batch,) = next(task.batches(task.recipe.teacher, 0))

    images, labels = task.inputs(batch, 0)

    assert torch.equal(images, batch.images)
    assert torch.equal(labels, batch.targets)


def unlabelled(folder, **changes):
    return tiny.recipe(
        folder,
        data__labelled=False,
        network__architecture={},
        network__checkpoint="somewhere",
        teacher=None,
        **changes,
    )


def test_no_label_comes_with_unlabelled_pictures(folder):
    task = Classification(unlabelled(folder, data__augment={"mix": 1.0}))
    (batch,) = next(task.batches(task.recipe.prune.schedule, 0))

    images, labels = task.inputs(batch, 4)

    assert labels is None
    assert torch.equal(images, blended(batch.images, 1.0, (0, 4)))


def test_calibration_pictures_are_plain_and_as_many_as_asked(folder):
    crops = {"crop_scale": [0.2, 0.5], "flip": True}
    task = Classification(tiny.recipe(folder, data__augment=crops))
    plain = Classification(tiny.recipe(folder))

    found = torch.cat(task.calibration(7))

    assert found.shape == (7, 8, 8, 3)
    assert torch.equal(found, torch.cat(plain.calibration(7)))
    assert len(torch.cat(task.calibration(99))) == 15


def test_calibration_without_one_readable_picture_is_refused(folder):
    task = Classification(tiny.recipe(folder))
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"")

    with pytest.raises(DataError, match=r"none of 4 pictures .* The first is .*00\.png: .*empty"):
        task.calibration(4)


@pytest.mark.parametrize("look", ["calibration", "training_views"])
def test_damaged_pictures_met_outside_of_training_are_named(folder, look):
    task = Classification(tiny.recipe(folder))
    damaged = folder / "train" / "red" / "00.png"
    damaged.write_bytes(b"no picture")

    pictures = getattr(task, look)(15)

    assert sum(map(len, pictures)) >= 14
    assert list(task.skipped) == [str(damaged)]
    assert task.skipped[str(damaged)]


def test_training_views_are_what_training_sees(folder):
    crops = {"crop_scale": [0.2, 0.5], "flip": True}
    task = Classification(tiny.recipe(folder, data__augment=crops))

    views = task.training_views(6)

    assert sum(map(len, views)) >= 6
    assert all(view.shape[1:] == (8, 8, 3) for view in views)
    again = Classification(task.recipe).training_views(6)
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))


def test_every_held_out_folder_is_scored_by_its_name(folder):
    tiny.write_pictures(folder / "other", each=3)
    both = {"first": str(folder / "test"), "second": str(folder / "other")}
    task = Classification(tiny.recipe(folder, data__evaluate=both))

    # Names the brightest channel, which is the class, so everything is right.
    scores = task.evaluate(lambda images: {"scores": images.mean(axis=(1, 2))}, "brightness")

    assert {name: score.images for name, score in scores.items()} == {"first": 6, "second": 9}
    assert all(score.main == 1 for score in scores.values())


def test_a_batch_that_does_not_divide_into_pieces_is_refused(folder):
    schedule = {**tiny.SCHEDULE, "micro_batch": 3}
    task = Classification(tiny.recipe(folder, prune__schedule=schedule))

    with pytest.raises(RecipeError, match="batch_size 4 cannot be divided among 1 processes"):
        next(task.batches(task.recipe.prune.schedule, 0))


@pytest.mark.parametrize(("micro_batch", "refused"), [(1, True), (2, False), (None, False)])
def test_pieces_that_cut_the_pairs_of_blends_are_refused(folder, micro_batch, refused):
    schedule = {**tiny.SCHEDULE, "micro_batch": micro_batch}
    changes = {"data__labelled": False, "data__augment": {"mix": 0.5}, "teacher": None}
    network = {"checkpoint": "none"}
    recipe = tiny.recipe(folder, **changes, network=network, prune__schedule=schedule)
    task = Classification(recipe)

    with pytest.raises(RecipeError, match="pieces of 1 pictures cut") if refused else nullcontext():
        next(task.batches(recipe.prune.schedule, 0))


def test_an_unknown_label_set_is_refused(folder):
    with pytest.raises(CardError, match="unknown label set 'imagenet-2k'; known sets"):
        Classification(tiny.recipe(folder, data__labels="imagenet-2k"))


def test_a_missing_folder_of_any_role_is_refused(folder):
    for path in ("data__train", "data__evaluate"):
        absent = str(folder / "absent")
        value = absent if path == "data__train" else {"held out": absent}
        with pytest.raises(CompressError, match="absent"):
            Classification(tiny.recipe(folder, **{path: value}))
