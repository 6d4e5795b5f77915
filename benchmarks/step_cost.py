"""What a training step of each stage costs beside fine-tuning of the same network.

    python -m benchmarks.step_cost --batch 8 32

A DeiT-Tiny of random weights is trained on random pictures, on which neither time nor memory
depends, by compress.train as it is. Decoding of pictures is not counted. Fine-tuning learns labels
alone. Stage 1 distils the dense network into a 2:4 one: hard label, soft logits, outputs of all
blocks on agreeing samples, masks after every step. Stage 2 does the same from the 2:4 network to a
2:4 INT8 one with learned activation scales. Both have a teacher to run; the last row is its forward
pass alone.

Time: contenders take turns in one process, a few steps each after some that do not count. Shown are
medians of the turns, and of the ratios to fine-tuning in the same turn; by the clock, and by what
this process's threads computed, which other work on the machine changes less (on a GPU that is the
host's part). A GPU is waited for before the clock is read.

Memory: each contender in a process of its own. On a GPU, the peak of what torch had allocated. On a
CPU (Linux), how far the peak of resident memory lies above what was resident before there was a
network, with what the C library keeps for itself.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import math
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress import latency
from compress.attention import prefer_products
from compress.calibrate import calibrate
from compress.criteria.classify import OneClass, hard_loss
from compress.data.batch import Batch
from compress.distill import Losses, MixedDistillation, Weights
from compress.networks import deit, roles
from compress.networks.network import Classifier
from compress.parallel import Processes
from compress.placement import place_quantizers
from compress.prune import Masks, magnitude_masks
from compress.quantize import switch_on
from compress.recipe import Distill, Quantize, Schedule
from compress.run import Run
from compress.train import Stage, train

PLAIN, SPARSE, INT8 = "fine-tuning", "stage 1: 2:4", "stage 2: 2:4 + INT8"
TEACHER = "a teacher's forward pass"
CONTENDERS = (PLAIN, SPARSE, INT8, TEACHER)
COLUMNS = ("step ms", "ratio", "computed ms", "ratio", "peak MB", "ratio")
SHAPE = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
# Steps of a turn before those that count: memory is taken, kernels are chosen.
_WARM_UP = 2
_CLASSES = 1000

Steps = Iterator[list[Batch]]
Loss = Callable[[Tensor, Tensor, nn.Module], Losses]


@dataclass(frozen=True)
class Settings:
    """What is trained: a DeiT of ViTConfig's keywords, and so many counted steps in a turn."""

    architecture: dict[str, Any]
    batch: int
    autocast: str
    steps: int
    device: str
    threads: int


def times(settings: Settings, turns: int) -> dict[str, list[float]]:
    """Time every contender; return the first four ``COLUMNS``, by name."""
    torch.set_num_threads(settings.threads)
    contenders = {name: contender(settings, name) for name in CONTENDERS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for _, name in itertools.product(range(turns), CONTENDERS):
        taken[name].append(turn(settings, contenders[name]))
    return {name: list(_medians(own, taken[PLAIN])) for name, own in taken.items()}


def _medians(taken: list[tuple[float, float]], plain: list[tuple[float, float]]) -> Iterator[float]:
    for own_s, plain_s in zip(zip(*taken, strict=True), zip(*plain, strict=True), strict=True):
        yield 1000 * statistics.median(own_s)
        yield statistics.median(one / other for one, other in zip(own_s, plain_s, strict=True))


def contender(settings: Settings, name: str) -> Callable[[Steps], None]:
    """Build the networks of one contender; return what takes the steps that it is given."""
    torch.manual_seed(0)
    body = deit.build({"num_labels": _CLASSES, **settings.architecture})
    prefer_products(body)
    network = Classifier(body, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to(settings.device).eval()
    if name == TEACHER:
        return partial(_forward, settings, network)
    if name == PLAIN:
        return partial(_train, settings, network, _labels_alone, Masks({}))
    layers = [
        dataclasses.replace(layer, name=f"body.{layer.name}", reads=f"body.{layer.reads}")
        for layer in roles.layers(body)
    ]
    masks = magnitude_masks(network, [layer.name for layer in layers if layer.prune])
    if name == INT8:
        masks.apply(network)
    student = copy.deepcopy(network)
    masks.apply(student)
    if name == INT8:
        place_quantizers(student, layers, Quantize(schedule=None))
        calibrate(student.to(settings.device), [_inputs(settings, _batch(settings))[0]])
        switch_on(student)
    compared = {f"body.{block}": 1.0 for block in deit.blocks(body)}
    terms = Distill().model_dump(include={"hard", "soft", "feature", "temperature", "agree_only"})
    weights = Weights(**terms, layers=compared)
    compare = MixedDistillation(network, student, weights, OneClass())
    return partial(_train, settings, student, compare, masks)


def _labels_alone(images: Tensor, labels: Tensor, forward: nn.Module) -> Losses:
    term = hard_loss(forward(images).float(), labels)
    return Losses(term, {"hard": term.detach()}, {})


def _train(settings: Settings, network: Classifier, loss: Loss, masks: Masks, steps: Steps) -> None:
    schedule = {"epochs": 1, "learning_rate": 1e-5, "autocast": settings.autocast}
    stage = Stage(
        name="step-cost",
        network=network,
        loss=lambda forward, batch, _step: loss(*_inputs(settings, batch), forward),
        batches=lambda _first: steps,
        steps_per_epoch=_WARM_UP + settings.steps + 1,
        after_step=lambda trained, _step: masks.apply(trained),
        processes=Processes(device=torch.device(settings.device)),
        dropout=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        # No step of a turn writes a checkpoint.
        train(stage, Schedule.model_validate(schedule), Run(Path(folder), "step-cost"), math.inf)


def _forward(settings: Settings, network: Classifier, steps: Steps) -> None:
    lower = None if settings.autocast == "float32" else getattr(torch, settings.autocast)
    with torch.no_grad(), torch.autocast(settings.device, lower, enabled=lower is not None):
        for (batch,) in steps:
            network(_inputs(settings, batch)[0])


def _batch(settings: Settings) -> Batch:
    side_px = settings.architecture.get("image_size", 224)
    shape = (settings.batch, side_px, side_px, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    return Batch(images, torch.randint(0, _CLASSES, (settings.batch,)))


def _inputs(settings: Settings, batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.images.to(settings.device), batch.tensor.to(settings.device)


def turn(settings: Settings, takes: Callable[[Steps], None]) -> tuple[float, float]:
    """Let a contender take a few steps; return the seconds of one, by the clock and computed."""
    read: list[tuple[float, float]] = []

    def steps() -> Steps:
        batch = _batch(settings)
        last = _WARM_UP + settings.steps
        # One more step ends those that count: training asks for nothing after its last one.
        for index in range(last + 1):
            if index in (_WARM_UP, last):
                if settings.device == "cuda":
                    torch.cuda.synchronize()
                read.append((time.perf_counter(), time.process_time()))
            yield [batch]

    takes(steps())
    (clock, computed), (clock_after, computed_after) = read
    return (clock_after - clock) / settings.steps, (computed_after - computed) / settings.steps


def peak_mb(settings: Settings, name: str) -> float:
    """Let a contender take a few steps in a process of its own; return its peak of memory."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(_peak_mb, settings, name).result()


def _peak_mb(settings: Settings, name: str) -> float:
    torch.set_num_threads(settings.threads)
    before_mb = _resident_mb("VmRSS")
    turn(settings, contender(settings, name))
    if settings.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return _resident_mb("VmHWM") - before_mb


def _resident_mb(what: str) -> float:
    (found,) = re.findall(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) * 1024 / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each batch size; return 0."""
    parsed = _parser().parse_args(argv)
    where = torch.cuda.get_device_name() if parsed.device == "cuda" else latency.machine()
    options = {name: getattr(parsed, name) for name in ("autocast", "steps", "device", "threads")}
    for batch in parsed.batch:
        settings = Settings(SHAPE, batch, **options)
        peaks = {name: peak_mb(settings, name) for name in CONTENDERS}
        print(
            f"DeiT-Tiny, batch {batch}, {parsed.autocast}, {parsed.turns} turns of {parsed.steps} "
            f"steps, threads: {parsed.threads}; torch {torch.__version__}, {where}"
        )
        print(f"{'':26}" + "".join(f"{title:>13}" for title in COLUMNS))
        for name, timed in times(settings, parsed.turns).items():
            cells = zip([*timed, peaks[name], peaks[name] / peaks[PLAIN]], (0, 2) * 3, strict=True)
            print(f"{name:26}" + "".join(f"{cell:>13.{digits}f}" for cell, digits in cells))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="pictures a step")
    parser.add_argument("--autocast", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--steps", type=int, default=3, help="that count in a turn")
    parser.add_argument("--turns", type=int, default=5, help="of each contender")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=found)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
