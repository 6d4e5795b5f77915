import copy
import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.data.batch import Batch
from compress.distill import Losses
from compress.prune import Masks, magnitude_masks
from compress.recipe import Schedule
from compress.run import Run
from compress.train import History, Stage, checkpoint_name, learning_rate, total_steps, train

Loss = Callable[[nn.Module, Batch, int], Losses]
STEPS_PER_EPOCH = 9
SCHEDULE = Schedule(epochs=3, batch_size=4, learning_rate=0.01, weight_decay=0.1, warmup=0.2)
STEPS = 27
# Every step leaves a checkpoint.
ALWAYS_S = 1e-9


class _Killed(Exception):  # noqa: N818 - stands for a signal
    """What interrupts training in these tests."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


def batches(first: int) -> Iterator[list[Batch]]:
    for step in itertools.count(first):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(4, 8, generator=generator)
        skipped = [(f"{step}.png", "damaged")] if step % 10 == 0 else []
        yield [Batch(images, torch.randint(0, 3, (4,), generator=generator), skipped)]


def loss_of(fails_at: int | None = None) -> Loss:
    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        if step == fails_at:
            raise _Killed
        logits = forward(batch.images)
        hard = F.cross_entropy(logits, batch.targets)
        size = logits.square().mean()
        terms = {"hard": hard.detach(), "size": size.detach()}
        return Losses(hard + 0.1 * size, terms, {"last": size.detach()})

    return loss


def stage(trained: nn.Module, *, fails_at: int | None = None, masks: Masks | None = None) -> Stage:
    kept: dict[str, Any] = {"masks": masks.masks} if masks else {}

    def after_step(network: nn.Module, _step: int) -> None:
        if masks:
            masks.apply(network)

    loss = loss_of(fails_at)
    return Stage("stage", trained, loss, batches, STEPS_PER_EPOCH, after_step, lambda: kept)


def run(folder: Path) -> Run:
    return Run(folder, "digest")


def same(one: History, other: History) -> bool:
    """Whether two records agree in all but the time they took."""
    return {**vars(one), "seconds": 0} == {**vars(other), "seconds": 0}


@pytest.mark.parametrize("fails_at", [1, 5, 10, 17, 19, 26])
def test_an_interrupted_run_ends_as_an_unbroken_one_bit_by_bit(tmp_path, fails_at):
    unbroken, broken = network(), network()
    expected = train(stage(unbroken), SCHEDULE, run(tmp_path / "unbroken"))

    with pytest.raises(_Killed):
        train(stage(broken, fails_at=fails_at), SCHEDULE, run(tmp_path / "broken"), ALWAYS_S)
    resumed = network()
    came = train(stage(resumed), SCHEDULE, run(tmp_path / "broken"), ALWAYS_S)

    for name, weight in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
    assert same(came, expected)


def test_a_resumed_run_says_once_where_it_goes_on(tmp_path, caplog):
    with pytest.raises(_Killed):
        train(stage(network(), fails_at=10), SCHEDULE, run(tmp_path), ALWAYS_S)

    with caplog.at_level(logging.INFO):
        train(stage(network()), SCHEDULE, run(tmp_path), ALWAYS_S)

    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "going on" in line] == ["going on from step 10 of stage stage"]


def test_a_run_may_be_interrupted_at_every_step(tmp_path):
    unbroken = network()
    expected = train(stage(unbroken), SCHEDULE, run(tmp_path / "unbroken"))

    for fails_at in range(1, STEPS):
        broken = stage(network(), fails_at=fails_at)
        with pytest.raises(_Killed):
            train(broken, SCHEDULE, run(tmp_path / "broken"), ALWAYS_S)
    resumed = network()
    came = train(stage(resumed), SCHEDULE, run(tmp_path / "broken"), ALWAYS_S)

    assert all(
        torch.equal(resumed.state_dict()[name], weight)
        for name, weight in unbroken.state_dict().items()
    )
    assert same(came, expected)


def test_a_resumed_run_does_not_repeat_finished_steps(tmp_path):
    with pytest.raises(_Killed):
        train(stage(network(), fails_at=20), SCHEDULE, run(tmp_path), ALWAYS_S)
    seen = []
    resumed = stage(network())
    counted = loss_of()

    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        seen.append(step)
        return counted(forward, batch, step)

    train(Stage("stage", resumed.network, loss, batches, STEPS_PER_EPOCH), SCHEDULE, run(tmp_path))

    assert seen == list(range(20, STEPS))


def test_without_a_checkpoint_a_run_begins_anew(tmp_path):
    with pytest.raises(_Killed):
        train(stage(network(), fails_at=20), SCHEDULE, run(tmp_path), checkpoint_every_s=3600)

    assert run(tmp_path).load(checkpoint_name("stage")) is None


def test_masks_hold_after_every_step_and_travel_in_the_checkpoint(tmp_path):
    trained = network()
    masks = magnitude_masks(trained, ["0"])
    masks.apply(trained)

    with pytest.raises(_Killed):
        train(stage(trained, fails_at=6, masks=masks), SCHEDULE, run(tmp_path), ALWAYS_S)
    state = run(tmp_path).load(checkpoint_name("stage"))
    train(stage(trained, masks=masks), SCHEDULE, run(tmp_path))

    masks.verify(trained, "after training")
    assert torch.equal(state["masks"]["0.weight"], masks.masks["0.weight"])
    assert not (state["network"]["0.weight"] != 0)[~masks.masks["0.weight"]].any()


def test_the_record_is_complete(tmp_path):
    history = train(stage(network()), SCHEDULE, run(tmp_path))

    # Every ten steps, and the last one.
    assert [point["step"] for point in history.points] == [10, 20, 27]
    assert all(set(p) == {"step", "rate", "loss", "hard", "size"} for p in history.points)
    assert all(math.isfinite(value) for point in history.points for value in point.values())
    for point in history.points:
        assert point["loss"] == pytest.approx(point["hard"] + 0.1 * point["size"], rel=1e-5)
    assert history.skipped == {f"{step}.png": "damaged" for step in (0, 10, 20)}
    assert history.seconds > 0


def test_points_are_means_of_the_steps_since_the_point_before(tmp_path):
    trained = network()
    losses = []
    plain = loss_of()

    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        found = plain(forward, batch, step)
        losses.append(found.total.item())
        return found

    history = train(
        Stage("stage", trained, loss, batches, STEPS_PER_EPOCH), SCHEDULE, run(tmp_path)
    )

    expected = [sum(losses[:10]) / 10, sum(losses[10:20]) / 10, sum(losses[20:]) / 7]
    assert [point["loss"] for point in history.points] == pytest.approx(expected, rel=1e-5)


def test_layer_losses_are_the_mean_over_the_last_epoch(tmp_path):
    trained = network()
    sizes = []
    plain = loss_of()

    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        found = plain(forward, batch, step)
        sizes.append(found.layers["last"].item())
        return found

    history = train(
        Stage("stage", trained, loss, batches, STEPS_PER_EPOCH), SCHEDULE, run(tmp_path)
    )

    expected = sum(sizes[-STEPS_PER_EPOCH:]) / STEPS_PER_EPOCH
    assert history.layer_losses["last"] == pytest.approx(expected, rel=1e-5)


def test_training_lowers_the_loss_and_leaves_evaluation_mode(tmp_path):
    trained = network()
    (fixed,) = next(batches(0))

    def loss(forward: nn.Module, _batch: Batch, step: int) -> Losses:
        return loss_of()(forward, fixed, step)

    train(Stage("stage", trained, loss, batches, STEPS_PER_EPOCH), SCHEDULE, run(tmp_path))

    with torch.inference_mode():
        after = F.cross_entropy(trained(fixed.images), fixed.targets)
        before = F.cross_entropy(network()(fixed.images), fixed.targets)
    assert after < before / 2
    assert not trained.training


def test_the_first_step_moves_weights_by_the_first_rate(tmp_path):
    trained = network()
    before = copy.deepcopy(trained.state_dict())

    with pytest.raises(_Killed):
        train(stage(trained, fails_at=1), SCHEDULE, run(tmp_path))

    rate = learning_rate(0, STEPS, SCHEDULE)
    moved = (trained.state_dict()["0.bias"] - before["0.bias"]).abs()
    # Adam's first step is the rate times the sign of the gradient; biases are not decayed.
    assert moved.max().item() == pytest.approx(rate, rel=1e-3)


class _Tokens(nn.Module):
    """Multiplies with every kind of parameter there is, so that all get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv, self.norm = nn.Linear(8, 8), nn.Conv1d(1, 1, 1), nn.LayerNorm(8)
        self.position_embeddings = nn.Parameter(torch.ones(1, 1, 8))
        self.table = nn.Embedding(1, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.linear(images))[:, None] * self.position_embeddings
        return self.conv(tokens).mean(dim=2) * self.table.weight


def test_only_weights_of_products_are_decayed(tmp_path):
    trained = _Tokens()
    before = copy.deepcopy(dict(trained.named_parameters()))

    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        total = forward(batch.images).sum() * 0
        return Losses(total, {"hard": total.detach()}, {})

    # Without a gradient the decay alone moves a parameter.
    train(Stage("stage", trained, loss, batches, STEPS_PER_EPOCH), SCHEDULE, run(tmp_path))

    moved = {
        name for name, value in trained.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved == {"linear.weight", "conv.weight"}


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_zero():
    schedule = Schedule(epochs=1, learning_rate=0.5, warmup=0.25)
    rates = [learning_rate(step, 100, schedule) for step in range(100)]

    assert rates[:25] == pytest.approx([0.5 * (step + 1) / 26 for step in range(25)])
    assert rates[25] == 0.5
    assert rates[25 + 75 // 3] == pytest.approx(0.5 * 0.75)
    assert rates == sorted(rates[:26]) + sorted(rates[26:], reverse=True)
    assert 0 < rates[-1] < 0.5 * 0.001
    assert learning_rate(100, 100, schedule) == pytest.approx(0, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    schedule = Schedule(epochs=1, learning_rate=0.5, warmup=0)

    assert learning_rate(0, 10, schedule) == 0.5


def test_a_warm_up_over_everything_never_reaches_the_peak():
    schedule = Schedule(epochs=1, learning_rate=0.5, warmup=1)
    rates = [learning_rate(step, 4, schedule) for step in range(4)]

    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("epochs", "steps"), [(3, 27), (0.5, 4), (0.01, 1)])
def test_fractions_of_an_epoch_count_and_one_step_is_the_least(epochs, steps):
    assert total_steps(Schedule(epochs=epochs, learning_rate=1), STEPS_PER_EPOCH) == steps


def test_a_checkpoint_of_another_network_is_not_taken_in_silence(tmp_path):
    with pytest.raises(_Killed):
        train(stage(network(), fails_at=3), SCHEDULE, run(tmp_path), ALWAYS_S)

    wider = nn.Sequential(nn.Linear(8, 17), nn.LayerNorm(17), nn.GELU(), nn.Linear(17, 3))
    with pytest.raises(RuntimeError, match="size mismatch"):
        train(stage(wider), SCHEDULE, run(tmp_path))


def test_bfloat16_computes_otherwise_but_keeps_float32_weights(tmp_path):
    exact, lower = network(), network()

    train(stage(exact), SCHEDULE, run(tmp_path / "exact"))
    autocast = SCHEDULE.model_copy(update={"autocast": "bfloat16"})
    train(stage(lower), autocast, run(tmp_path / "lower"))

    assert {parameter.dtype for parameter in lower.parameters()} == {torch.float32}
    assert not torch.equal(exact[0].weight, lower[0].weight)
    assert torch.allclose(exact[0].weight, lower[0].weight, atol=0.05)


class _Draws(nn.Module):
    """Remembers what a network would drop."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 3))
        self.drawn: list[float] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.drawn.append(torch.rand(()).item())
        return images @ self.weight


def test_what_is_dropped_differs_by_seed_stage_and_step_and_is_the_same_once_resumed(tmp_path):
    def drawn(folder: str, name: str = "stage", seed: int = 0, first: int = 0) -> list[float]:
        network = _Draws()
        plain = dataclasses.replace(stage(network), name=name, seed=seed)
        if first:
            broken = dataclasses.replace(plain, loss=loss_of(first))
            with pytest.raises(_Killed):
                train(broken, SCHEDULE, run(tmp_path / folder), ALWAYS_S)
            network.drawn.clear()
        train(plain, SCHEDULE, run(tmp_path / folder))
        return network.drawn

    plain = drawn("plain")
    others = [drawn("name", "other"), drawn("seed", seed=1), plain]

    assert len({value for values in others for value in values}) == 3 * STEPS
    assert drawn("again") == plain
    assert drawn("resumed", first=17) == plain[17:]


def test_without_dropout_only_batch_norms_are_in_training(tmp_path):
    modes: list[dict[str, bool]] = []
    trained = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.9), nn.Linear(16, 3))
    plain = loss_of()

    def loss(forward: nn.Module, batch: Batch, step: int) -> Losses:
        modes.append({name: module.training for name, module in trained.named_modules()})
        return plain(forward, batch, step)

    schedule = SCHEDULE.model_copy(update={"evaluate_every": 1.0})
    train(dataclasses.replace(stage(trained), loss=loss, dropout=False), schedule, run(tmp_path))

    expected = {"": False, "0": False, "1": True, "2": False, "3": False}
    assert modes == [expected] * STEPS


def pieces(count: int) -> Callable[[int], Iterator[list[Batch]]]:
    def divided(first: int) -> Iterator[list[Batch]]:
        for (batch,) in batches(first):
            parts = zip(batch.images.chunk(count), batch.targets.chunk(count), strict=True)
            yield [Batch(images, labels) for images, labels in parts]

    return divided


@pytest.mark.parametrize("count", [2, 4])
def test_gradients_added_up_over_pieces_are_those_of_the_whole_batch(tmp_path, count):
    whole, divided = network(), network()

    expected = train(
        Stage("stage", whole, loss_of(), pieces(1), STEPS_PER_EPOCH), SCHEDULE, run(tmp_path / "1")
    )
    came = train(
        Stage("stage", divided, loss_of(), pieces(count), STEPS_PER_EPOCH),
        SCHEDULE,
        run(tmp_path / "n"),
    )

    assert torch.allclose(whole[0].weight, divided[0].weight, atol=1e-5)
    for one, other in zip(expected.points, came.points, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert came.layer_losses == pytest.approx(expected.layer_losses, rel=1e-4)


def test_a_run_goes_on_with_its_batches_divided_otherwise(tmp_path):
    whole, divided = network(), network()
    expected = train(stage(whole), SCHEDULE, run(tmp_path / "whole"))

    with pytest.raises(_Killed):
        train(stage(network(), fails_at=14), SCHEDULE, run(tmp_path / "divided"), ALWAYS_S)
    resumed = Stage("stage", divided, loss_of(), pieces(2), STEPS_PER_EPOCH)
    came = train(resumed, SCHEDULE, run(tmp_path / "divided"))

    assert torch.allclose(whole[0].weight, divided[0].weight, atol=1e-5)
    assert came.points[-1] == pytest.approx(expected.points[-1], rel=1e-4)


def test_float16_scales_its_gradients_and_resumes_with_the_scale(tmp_path):
    schedule = SCHEDULE.model_copy(update={"autocast": "float16"})
    exact, unbroken, resumed = network(), network(), network()
    train(stage(exact), SCHEDULE, run(tmp_path / "exact"))

    expected = train(stage(unbroken), schedule, run(tmp_path / "unbroken"))
    with pytest.raises(_Killed):
        train(stage(network(), fails_at=17), schedule, run(tmp_path / "broken"), ALWAYS_S)
    state = run(tmp_path / "broken").load(checkpoint_name("stage"))
    came = train(stage(resumed), schedule, run(tmp_path / "broken"))

    assert state["scaler"]["scale"] > 1
    assert torch.equal(unbroken[0].weight, resumed[0].weight)
    assert same(came, expected)
    assert not torch.equal(exact[0].weight, unbroken[0].weight)
    assert torch.allclose(exact[0].weight, unbroken[0].weight, atol=0.05)


def test_the_network_is_scored_as_often_as_the_schedule_says(tmp_path):
    trained = network()
    logged: dict[int, dict[str, float]] = {}

    def score() -> dict[str, float]:
        assert not trained.training
        return {"held out": trained[0].weight.sum().item()}

    scored = dataclasses.replace(
        stage(trained), score=score, log=lambda values, step: logged.setdefault(step, values)
    )
    history = train(scored, SCHEDULE.model_copy(update={"evaluate_every": 1.0}), run(tmp_path))

    assert [entry["step"] for entry in history.scores] == [0, 9, 18, 27]
    assert len({entry["held out"] for entry in history.scores}) == 4
    assert logged.keys() == {0, 9, 10, 18, 20, 27}
    assert logged[10].keys() == {"rate", "loss", "hard", "size"}
    unscored = network()
    train(stage(unscored), SCHEDULE, run(tmp_path / "other"))
    assert torch.equal(trained[0].weight, unscored[0].weight)
