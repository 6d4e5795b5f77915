"""Every format of one network on this GPU: built, checked, timed in turns.

Each is built twice, for batch 1 and for large batches, since a builder picks kernels for one batch
size. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx

from compress import agreement
from compress.answers import in_batches
from compress.errors import PlanError
from compress.plan import capability, recorded, twin_answers
from compress.plan.bench_table import Row
from compress.plan.build import Built, Options, build
from compress.plan.bundle import Bundle
from compress.plan.capability import Gpu
from compress.plan.contenders import TWINS, Contender, Graph, contenders
from compress.plan.energy import Meter
from compress.plan.turns import Burst, in_turns, percentile
from contract.cuda import Device
from contract.engine import Engine
from contract.errors import EngineError

_LOG = logging.getLogger(__name__)
BATCHES: Final = (1, 8, 16, 32, 64, 128)
CALLS: Final = 400
# Clocks of a GPU follow its load within a few milliseconds.
_BURST: Final = Burst(counted=50, warm_up=10)
# What 1,000 pictures draw is read off so long a run: the counter of a board moves in steps.
ENERGY_S: Final = 3.0
_PICTURES: Final = 1000
_LATENCY, _THROUGHPUT = "batch 1", "large batches"


@dataclass(frozen=True)
class Settings:
    """How is measured.

    Args:
        batches: Sizes to look for the best throughput at.
        calls: Timed calls of each contender at batch 1; a quarter at each size for throughput,
            whose median needs no more.
        level: Of the builder; TensorRT's own default if None.
        own_kernels: Use TensorRT's own kernels alone.
        timing_caches: Folder of the builder's timing caches, one a network; made when missing.
            None keeps none for the next run.
        energy_s: How long each contender runs to have its energy read; 0 reads none.
    """

    batches: tuple[int, ...] = BATCHES
    calls: int = CALLS
    level: int | None = None
    own_kernels: bool = False
    timing_caches: Path | None = None
    energy_s: float = ENERGY_S


@dataclass(frozen=True)
class Machine:
    """What measures: a GPU and a version of TensorRT."""

    device: Device
    tensorrt: str

    @property
    def gpu(self) -> Gpu:
        """The GPU as the capability table knows it."""
        return Gpu(self.device.capability, self.device.name)

    def __str__(self) -> str:
        """Return what stands above a table."""
        return f"{self.device}, driver {self.device.driver}, TensorRT {self.tensorrt}"


@dataclass
class _Entry:
    """One contender while it is measured."""

    contender: Contender
    reason: str = ""
    failed: bool = False
    times_ms: list[float] = field(default_factory=list)
    images_per_s: dict[int, float] = field(default_factory=dict)
    joules: float | None = None
    sparse: dict[str, tuple[int, int]] = field(default_factory=dict)
    parities: list[agreement.Parity] = field(default_factory=list)
    built: dict[str, Any] = field(default_factory=dict)

    def note(self, what: str, built: Built, options: Options) -> None:
        """Keep what is known of a plan."""
        proof = built.proof
        if options.sparse:
            self.sparse[what] = (len(proof.eligible), len(proof.picked))
        self.built[what] = {
            "best_batch": options.best_batch,
            "seconds": round(built.seconds, 1),
            "flags": list(built.flags),
            "plan_bytes": len(built.plan),
            "layers": proof.plain(),
        }

    def row(self, network: str) -> Row:
        times = self.times_ms
        return Row(
            network=network,
            contender=self.contender.name,
            p50_ms=percentile(times, 0.5) if times else None,
            p99_ms=percentile(times, 0.99) if times else None,
            images_per_s=self.images_per_s,
            dense_twin=self.contender.dense_twin,
            reason=self.reason,
            failed=self.failed,
            joules=self.joules,
            sparse=self.sparse,
            differs=max((parity.mean for parity in self.parities), default=None),
            agrees=all(parity.holds for parity in self.parities) if self.parities else None,
            built=self.built,
        )


class Network:
    """A bundle and its contenders.

    Args:
        name: As the table calls it.
        bundle: The network.
        machine: That measures.
        settings: How.

    Raises:
        PlanError: The answers recorded beside the graph are damaged, or of another graph.
    """

    def __init__(self, name: str, bundle: Bundle, machine: Machine, settings: Settings) -> None:
        self.name = name
        self.task = bundle.card.task
        self.settings = settings
        self.pictures = recorded.read_for(bundle)
        self.answers = twin_answers.read(bundle.model.parent, self.pictures)
        self.graphs: dict[Graph, onnx.ModelProto] = {"bundle": onnx.load(bundle.model)}
        self.entries = {one.name: _Entry(one) for one in contenders(bundle.card.precision)}
        self.timing_cache: Path | None = None
        if settings.timing_caches is not None:
            cache = f"{name}-{machine.gpu.sm}-{machine.tensorrt}.timing"
            self.timing_cache = settings.timing_caches / cache
        for entry in self.entries.values():
            entry.reason = self._refusal(entry.contender, machine)

    def rows(self) -> list[Row]:
        """Return what was found."""
        return [entry.row(self.name) for entry in self.entries.values()]

    def measure(self, meter: Meter | None) -> None:
        """Build everything and time it; what fails keeps its reason instead of its times."""
        with self._engines(_LATENCY, [1]) as engines:
            _LOG.info("%s: timing %d formats, one picture a call", self.name, len(engines))
            times = in_turns(engines, 1, self.settings.calls, _BURST)
            for name, taken in times.items():
                self.entries[name].times_ms = taken
        largest = max(self.settings.batches)
        # What does not fit is tried with half of it.
        sizes = [largest >> halved for halved in range(largest.bit_length())]
        with self._engines(_THROUGHPUT, sizes) as engines:
            for batch in sorted(self.settings.batches):
                self._time(engines, batch)
            if meter is not None:
                for name, engine in engines.items():
                    self._read_energy(self.entries[name], engine, meter)

    def _refusal(self, contender: Contender, machine: Machine) -> str:
        """Say why a contender cannot take part here; nothing where it can."""
        try:
            capability.check(contender.precision, machine.tensorrt, machine.gpu)
            self._graph(contender.graph)
        except PlanError as error:
            if contender.graph == "bundle":
                return str(error)
            # What to do about it is for whoever wants to run that format.
            return str(error).partition(". ")[0].replace("this network", "this twin")
        return ""

    def _graph(self, kind: Graph) -> onnx.ModelProto:
        if kind not in self.graphs:
            self.graphs[kind] = TWINS[kind](self.graphs["bundle"])
        return self.graphs[kind]

    @contextmanager
    def _engines(self, what: str, sizes: Sequence[int]) -> Iterator[dict[str, Engine]]:
        """Build and load all that nothing speaks against, each for the first size that it takes."""
        plans: dict[str, bytes] = {}
        # Nothing is loaded meanwhile: a builder leaves out kernels for which memory is short.
        for name, entry in self.entries.items():
            if not entry.reason:
                tried = (self._tried(entry, what, size) for size in sizes)
                plan = next((plan for plan in tried if plan is not None), None)
                if plan is not None:
                    plans[name] = plan
        with ExitStack() as loaded:
            engines: dict[str, Engine] = {}
            # The compressed network first: what no longer fits is a baseline, which is large.
            for name, plan in reversed(plans.items()):
                engine = self._loaded(name, what, plan, sizes)
                if engine is not None:
                    engines[name] = engine
                    loaded.callback(engine.close)
            yield engines

    def _loaded(self, name: str, what: str, plan: bytes, sizes: Sequence[int]) -> Engine | None:
        """Load a plan beside the others, or what is built for a smaller batch."""
        entry = self.entries[name]
        built = entry.built[what]["best_batch"]
        smaller = (self._tried(entry, what, size) for size in sizes if size < built)
        for candidate in itertools.chain([plan], smaller):
            if candidate is None:
                continue
            try:
                engine = Engine(candidate, f"{self.name}, {name}, {what}")
            except EngineError as error:
                entry.reason, entry.failed = str(error), True
                _LOG.warning("%s, %s, %s: %s", self.name, name, what, error)
            else:
                entry.reason, entry.failed = "", False
                return engine
        return None

    def _tried(self, entry: _Entry, what: str, size: int) -> bytes | None:
        entry.reason, entry.failed = "", False
        try:
            return self._plan(entry, what, size)
        except (PlanError, EngineError) as error:
            entry.reason, entry.failed = str(error), True
            _LOG.info("%s, %s, %s: %s", self.name, entry.contender.name, what, error)
            return None

    def _plan(self, entry: _Entry, what: str, size: int) -> bytes:
        """Build one plan and check what it answers."""
        contender = entry.contender
        options = Options(
            body=contender.body,
            sparse=contender.sparse,
            max_batch=size,
            best_batch=size,
            level=self.settings.level,
            own_kernels=self.settings.own_kernels,
        )
        named = f"{self.name}, {contender.name}, {what}"
        graph = self._graph(contender.graph)
        built = build(graph, options, timing_cache=self.timing_cache, what=named)
        engine = Engine(built.plan, named)
        try:
            if (expected := self.answers.get(contender.graph)) and self.pictures:
                pictures = self.pictures.pictures
                came = in_batches(engine.run, pictures, min(size, len(pictures)))
                allowed = recorded.ALLOWED.get(self.task)
                entry.parities.append(agreement.compare(self.task, expected, came, allowed))
        finally:
            engine.close()
        entry.note(what, built, options)
        return built.plan

    def _time(self, engines: Mapping[str, Engine], batch: int) -> None:
        taking = {name: one for name, one in engines.items() if self._takes(name, one, batch)}
        _LOG.info("%s: timing %d formats at batch %d", self.name, len(taking), batch)
        calls = max(1, self.settings.calls // 4)
        for name, times in in_turns(taking, batch, calls, _BURST).items():
            self.entries[name].images_per_s[batch] = 1000 * batch / statistics.median(times)

    def _takes(self, name: str, engine: Engine, batch: int) -> bool:
        try:
            # The first call of a size takes memory.
            engine.time_ms(batch, 1)
        except EngineError as error:
            _LOG.warning("%s, %s, batch %d: %s", self.name, name, batch, error)
            return False
        return True

    def _read_energy(self, entry: _Entry, engine: Engine, meter: Meter) -> None:
        batch = max(entry.images_per_s, key=lambda size: entry.images_per_s[size], default=0)
        if not batch:
            return
        calls = math.ceil(self.settings.energy_s * entry.images_per_s[batch] / batch)
        engine.time_ms(batch, _BURST.warm_up)
        try:
            joules = meter.joules(lambda: engine.time_ms(batch, calls))
        except (PlanError, EngineError) as error:
            _LOG.info("%s, %s: %s", self.name, entry.contender.name, error)
            return
        entry.joules = joules / (calls * batch) * _PICTURES
