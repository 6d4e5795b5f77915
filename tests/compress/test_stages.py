import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import stages
from compress.criteria.classify import hard_loss, soft_loss
from compress.data.batch import Batch
from compress.distill import layer_weights
from compress.errors import RecipeError
from compress.quantize import activation_quantizers
from compress.run import Run
from compress.tasks.classify import Classification
from compress.work import Result, Work
from tests.compress import tiny

# So slow that the student stays what it is: the record then says what it was compared with.
STANDSTILL: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-12}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write_pictures(tmp_path / "train", each=8)
    tiny.write_pictures(tmp_path / "test", each=4)
    return tmp_path


def work(folder: Path, **changes: Any) -> Work:
    recipe = tiny.recipe(folder, **changes)
    torch.manual_seed(recipe.seed)
    run = Run(recipe.run, recipe.digest())
    return Work(recipe, run, Classification(recipe))


def weights(result: Result) -> dict[str, torch.Tensor]:
    return copy.deepcopy(result.network.state_dict())


def test_the_teacher_of_stage_one_is_the_dense_network_and_stays_as_it_is(folder):
    at = work(folder, prune__schedule=STANDSTILL)
    dense = stages.dense_teacher(at)
    before = weights(dense)

    sparse, _ = stages.sparse_student(at, dense, stages.layers_of(at, dense.network))

    images = torch.cat([batch.images for batch in _epoch(at)])
    with torch.inference_mode():
        expected = soft_loss(sparse.network(images), dense.network(images))
    assert expected > 1e-3
    (point,) = sparse.history.points
    assert point["soft"] == pytest.approx(expected.item(), rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in weights(dense).items())


def test_a_student_drops_nothing_that_its_teacher_does_not_drop(folder):
    dropped = {"hidden_dropout_prob": 0.9, "attention_probs_dropout_prob": 0.9}
    at = work(
        folder,
        prune__schedule=STANDSTILL,
        network__architecture={**tiny.ARCHITECTURE, **dropped},
    )
    dense = stages.dense_teacher(at)

    sparse, _ = stages.sparse_student(at, dense, stages.layers_of(at, dense.network))

    images = torch.cat([batch.images for batch in _epoch(at)])
    with torch.inference_mode():
        expected = soft_loss(sparse.network(images), dense.network(images))
    (point,) = sparse.history.points
    assert point["soft"] == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("teacher", ["sparse", "dense"])
def test_the_teacher_of_stage_two_is_the_network_that_the_recipe_names(folder, teacher):
    at = work(
        folder, prune__schedule=None, quantize__schedule=STANDSTILL, quantize__teacher=teacher
    )
    dense = stages.dense_teacher(at)
    layers = stages.layers_of(at, dense.network)
    sparse, masks = stages.sparse_student(at, dense, layers)
    before = weights(sparse)

    quantized = stages.quantized_student(at, dense, sparse, layers, masks)

    images = torch.cat(at.task.calibration(24))
    with torch.inference_mode():
        to_sparse = soft_loss(quantized.network(images), sparse.network(images)).item()
        to_dense = soft_loss(quantized.network(images), dense.network(images)).item()
    (point,) = quantized.history.points
    assert to_dense > 10 * to_sparse
    expected = {"sparse": to_sparse, "dense": to_dense}[teacher]
    assert point["soft"] == pytest.approx(expected, rel=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in weights(sparse).items())


def test_the_hard_term_learns_the_teachers_class_where_the_recipe_says_so(folder):
    terms = {}
    for source in ("given", "teacher"):
        at = work(
            folder / source,
            prune__schedule=STANDSTILL,
            teacher__epochs=1,
            distill__hard_label=source,
            **_data(folder),
        )
        dense = stages.dense_teacher(at)
        sparse, _ = stages.sparse_student(at, dense, stages.layers_of(at, dense.network))
        images, labels = zip(*(at.task.inputs(batch, 0) for batch in _epoch(at)), strict=True)
        with torch.inference_mode():
            wanted = torch.cat(labels) if source == "given" else None
            logits = sparse.network(torch.cat(images))
            predicted = dense.network(torch.cat(images)).argmax(dim=-1)
        expected = hard_loss(logits, predicted if wanted is None else wanted)
        (point,) = sparse.history.points
        assert point["hard"] == pytest.approx(expected.item(), rel=1e-3)
        terms[source] = point["hard"]

    assert terms["given"] != pytest.approx(terms["teacher"], rel=1e-2)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_head_is_the_dense_networks_to_the_end(folder, frozen):
    at = work(folder, distill__freeze_head=frozen)
    dense = stages.dense_teacher(at)
    layers = stages.layers_of(at, dense.network)
    sparse, masks = stages.sparse_student(at, dense, layers)
    quantized = stages.quantized_student(at, dense, sparse, layers, masks)

    for result in (sparse, quantized):
        for name in ("body.classifier.weight", "body.classifier.bias"):
            kept = result.network.get_parameter(name)
            assert torch.equal(kept, dense.network.get_parameter(name)) == frozen


@pytest.mark.parametrize("reading", ["inverse", "uniform"])
def test_stage_one_losses_weight_the_layers_of_stage_two(folder, reading):
    at = work(
        folder,
        prune__schedule=STANDSTILL,
        quantize__schedule=STANDSTILL,
        distill={"feature_layers": 2, "agree_only": False, "layer_weights": reading},
    )
    dense = stages.dense_teacher(at)
    layers = stages.layers_of(at, dense.network)
    sparse, masks = stages.sparse_student(at, dense, layers)

    history = stages.quantized_student(at, dense, sparse, layers, masks).history

    weight = layer_weights(sparse.history.layer_losses, reading)
    found = history.layer_losses
    assert found.keys() == weight.keys() == {"body.vit.layers.0", "body.vit.layers.1"}
    # One epoch of six steps is one point, so both are means over the same steps.
    (point,) = history.points
    expected = sum(weight[name] * found[name] for name in found) / 2
    assert point["feature"] == pytest.approx(expected, rel=1e-4)


def test_every_quantizer_is_calibrated_and_on_in_the_result(folder):
    at = work(folder, quantize__schedule=None)
    dense = stages.dense_teacher(at)
    layers = stages.layers_of(at, dense.network)
    sparse, masks = stages.sparse_student(at, dense, layers)

    for _ in range(2):  # made, and found in the run's folder
        result = stages.quantized_student(at, dense, sparse, layers, masks)
        quantizers = activation_quantizers(result.network).values()
        assert len(quantizers) == 10
        assert all(quantizer.on for quantizer in quantizers)
        assert all(quantizer.scale != 1 for quantizer in quantizers)
        assert not result.network.training


# One step, whose four pictures the damaged one is not among.
@pytest.mark.parametrize("schedule", [{**STANDSTILL, "epochs": 0.1}, None])
def test_a_picture_that_calibration_could_not_decode_stays_on_record(folder, schedule):
    def result() -> Result:
        # A later run, which finds the stage done, calibrates no more.
        at = work(folder, prune__schedule=None, quantize__schedule=schedule)
        dense = stages.dense_teacher(at)
        layers = stages.layers_of(at, dense.network)
        sparse, masks = stages.sparse_student(at, dense, layers)
        damaged.write_bytes(b"no picture")
        return stages.quantized_student(at, dense, sparse, layers, masks)

    damaged = folder / "train" / "red" / "00.png"

    assert list(result().history.skipped) == list(result().history.skipped) == [str(damaged)]


def test_scales_learn_only_where_the_recipe_says_so(folder):
    moved = {}
    for learned in (True, False):
        scales = []
        for steps in ({}, {"quantize__schedule": None}):
            changes = {"quantize__learned_scales": learned, **steps, **_data(folder)}
            at = work(folder / f"{learned} {len(steps)}", **changes)
            dense = stages.dense_teacher(at)
            layers = stages.layers_of(at, dense.network)
            sparse, masks = stages.sparse_student(at, dense, layers)
            result = stages.quantized_student(at, dense, sparse, layers, masks)
            scales.append([one.scale for one in activation_quantizers(result.network).values()])
        trained, calibrated = scales
        moved[learned] = trained != calibrated

    assert moved == {True: True, False: False}


def _epoch(at: Work) -> list[Batch]:
    """Return the six batches of an epoch of stage 1."""
    assert at.recipe.prune.schedule
    steps = itertools.islice(at.task.batches(at.recipe.prune.schedule, 0), 6)
    return [batch for (batch,) in steps]


def _data(folder: Path) -> dict[str, Any]:
    train, test = str(folder / "train"), {"held out": str(folder / "test")}
    return {"data__train": train, "data__evaluate": test}


def test_a_layer_that_cannot_be_two_of_four_stays_dense_and_says_why(folder):
    at = work(folder, network__architecture={**tiny.ARCHITECTURE, "hidden_size": 30})
    layers = stages.layers_of(at, stages.dense_teacher(at).network)

    decided = {layer.name.removeprefix("body.vit."): layer for layer in layers}

    assert decided["layers.0.mlp.fc2"].prune
    assert decided["embeddings.patch_embeddings.projection"].prune
    unfit = decided["layers.1.attention.q_proj"]
    assert (unfit.prune, unfit.reason) == (False, "needs a multiple of 4 inputs, got 30")


@pytest.mark.parametrize(("count", "blocks"), [(1, [1]), (2, [0, 1]), (9, [0, 1])])
def test_the_last_blocks_are_compared(folder, count, blocks):
    at = work(folder, distill__feature_layers=count)
    network = tiny.network()

    found = stages.feature_layers(at, network)

    assert found == [f"body.vit.layers.{index}" for index in blocks]


def test_a_network_of_another_picture_size_is_refused_before_it_runs(folder):
    size = {"height": 16, "width": 16, "shorter_side_px": 16}

    with pytest.raises(RecipeError, match=r"input is 16 x 16.*network .* 8 x 8"):
        stages.dense_teacher(work(folder, input=size))
