"""From a bundle to a checked plan in a model repository: the command ``gpusq plan``.

Nothing is installed that answers otherwise than ONNX Runtime. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx

from compress import agreement
from compress.agreement import Parity
from compress.answers import in_batches
from compress.errors import PlanError
from compress.plan import bundle as bundle_files
from compress.plan import capability, install, recorded, repository, search
from compress.plan.build import Built, Options, build
from compress.plan.bundle import Bundle
from compress.plan.capability import Gpu
from compress.plan.recorded import Recorded
from compress.plan.search import Candidate
from contract import cuda
from contract.cuda import Device
from contract.engine import Engine, tensorrt
from contract.plan_card import PlanCard

_LOG = logging.getLogger(__name__)
_CALLS: Final = 50


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Args:
        bundle: A folder with ``model.onnx`` and ``card.json``, or a model's folder in a repository.
        repository: Where the plan goes; made when missing.
        name: Of the model in it.
        options: Of the builder.
        pictures: A folder of pictures to check with; None takes those recorded in the bundle.
        search: Whether other forms of the graph are tried.
        instances: How many run side by side on one GPU; as many as before if None.
    """

    bundle: Path
    repository: Path
    name: str
    options: Options = field(default_factory=Options)
    pictures: Path | None = None
    search: bool = False
    instances: int | None = None


@dataclass(frozen=True)
class Checked:
    """A plan that answers as its graph does.

    Args:
        form: Of the graph that it was built from.
        options: That it was built with.
        built: The plan.
        parity: How near its answers are to those of ONNX Runtime.
        latency_ms: Median of one call, by batch size, on the GPU alone.
    """

    form: str
    options: Options
    built: Built
    parity: Parity
    latency_ms: Mapping[int, float]

    def text(self) -> str:
        """Return what people want to know, one line each."""
        times = ", ".join(f"{ms:.3f} ms at batch {n}" for n, ms in self.latency_ms.items())
        return "\n".join(
            [f"Sparse: {self.built.proof}", f"Parity: {self.parity}", f"Time:   {times}"]
        )


def plan(order: Order) -> tuple[Path, Checked]:
    """Build a plan for the GPU of this machine, check it, and install it.

    Returns:
        The folder of the version that is served from now on, and what is in it.

    Raises:
        PlanError: This GPU or TensorRT cannot run the network, the builder refuses the graph, the
            plan answers otherwise than the graph, or the repository cannot take it.
        SparsityError: A weight does not follow the pattern that the card names.
        EngineError: There is no TensorRT or GPU, or the plan does not run on it.
    """
    source = bundle_files.read_bundle_or_model(order.bundle)
    trt = tensorrt()
    device = cuda.runtime().device()
    gpu = Gpu(device.capability, device.name)
    asked = source.card.precision
    if not order.options.sparse:
        asked = dataclasses.replace(asked, sparsity="dense")
    line = capability.check(asked, trt.__version__, gpu)
    pictures = _pictures(order, source)
    repository.check_place(order.repository, order.name)
    timing_cache = order.repository / f".timing-{gpu.sm}-{trt.__version__}"
    model = onnx.load(source.model)
    if order.search:
        found = search.candidates(model, order.options, strongly_typed=line.strongly_typed)
        kept = _fastest(found, source, pictures, timing_cache)
    else:
        built = build(model, order.options, timing_cache=timing_cache)
        kept = check("as exported", built, source, pictures, order.options)
    card = _plan_card(kept.built, device, kept.options, source)
    report = json.dumps(_report(kept, card), indent=2) + "\n"
    new = install.NewPlan(gpu.sm, kept.built.plan, report.encode(), card)
    return install.install(source, new, order.repository, order.name, order.instances), kept


def _fastest(
    candidates: Iterable[Candidate], source: Bundle, pictures: Recorded, timing_cache: Path
) -> Checked:
    kept: Checked | None = None
    refused: list[str] = []
    for form, graph, options in candidates:
        try:
            built = build(graph, options, timing_cache=timing_cache, what=f"plan ({form})")
            checked = check(form, built, source, pictures, options)
        except PlanError as error:
            refused.append(f"{form}: {error}")
            _LOG.warning("refused %s: %s", form, error)
            continue
        _LOG.info("%s\n%s", form, checked.text())
        kept = min((one for one in (kept, checked) if one), key=_slowness)
    if kept is None:
        raise PlanError(f"no form of the graph gave a plan that holds. {' '.join(refused)}")
    return kept


def check(form: str, built: Built, source: Bundle, pictures: Recorded, options: Options) -> Checked:
    """Compare a plan with ONNX Runtime, at its smallest and its largest batch, and time it.

    Raises:
        PlanError: They disagree; says by how much, and where most.
        EngineError: The plan does not run.
    """
    task = source.card.task
    engine = Engine(built.plan, f"the plan ({form})")
    try:
        batches = sorted({1, options.max_batch})
        parities = [
            agreement.compare(
                task,
                pictures.answers,
                in_batches(engine.run, pictures.pictures, batch),
                recorded.ALLOWED.get(task),
            )
            for batch in batches
        ]
        times = {
            batch: statistics.median(engine.time_ms(batch, _CALLS))
            for batch in sorted({1, options.best_batch})
        }
    finally:
        engine.close()
    worst = min(parities, key=lambda parity: (parity.holds, parity.agreement))
    if not worst.holds:
        raise PlanError(
            f"the plan ({form}) does not compute what the graph computes, on {pictures.source}: "
            f"{worst}. Nothing was installed. Build with --body float32 to see whether rounding "
            "to float16 is the reason, or with another TensorRT."
        )
    return Checked(form, options, built, worst, times)


def _pictures(order: Order, source: Bundle) -> Recorded:
    if order.pictures is not None:
        return recorded.from_folder(source.model, source.card, order.pictures)
    found = recorded.read_for(source)
    if found is None:
        raise PlanError(
            f"expected {recorded.FILE} beside {source.model}, with pictures to check the plan "
            "with, found none. Give some: --pictures DIR"
        )
    return found


def _slowness(checked: Checked) -> float:
    return list(checked.latency_ms.values())[-1]


def _plan_card(built: Built, device: Device, options: Options, source: Bundle) -> PlanCard:
    proof = built.proof
    return PlanCard(
        tensorrt=built.tensorrt,
        capability=".".join(map(str, device.capability)),
        gpu=device.name,
        driver=device.driver,
        flags=(*built.flags, *_settings(options)),
        max_batch=options.max_batch,
        model_sha256=hashlib.sha256(source.model.read_bytes()).hexdigest(),
        sparsity={
            "eligible": len(proof.eligible),
            "picked": len(proof.picked),
            "int8": len(proof.int8),
            "fell_back": len(proof.fell_back),
        },
    )


def _settings(options: Options) -> list[str]:
    """Return what else the plan was built with, as flags are listed."""
    found = [f"body {options.body}", f"best batch {options.best_batch}"]
    found += ["softmax float16"] * options.half_softmax
    found += ["own kernels"] * options.own_kernels
    return found + ([f"level {options.level}"] if options.level is not None else [])


def _report(checked: Checked, card: PlanCard) -> dict[str, Any]:
    parity = checked.parity
    return {
        "plan": {**vars(card), "sparsity": dict(card.sparsity)},
        "form": checked.form,
        "build_s": round(checked.built.seconds, 1),
        "latency_ms": {str(batch): ms for batch, ms in checked.latency_ms.items()},
        "parity": {"largest": parity.largest, "mean": parity.mean, "agreement": parity.agreement},
        "layers": checked.built.proof.plain(),
    }
