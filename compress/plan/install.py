"""Puts a plan into a model repository, beside those for other GPUs.

A version's folder holds the graph and one plan for each kind of GPU, so that one repository serves
a mixed fleet, and the embedded executors too. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from compress.plan import repository, triton_config
from compress.plan.bundle import MODEL_FILE, Bundle
from compress.plan.repository import Release
from compress.plan.triton_config import CONFIG_FILE, Serving
from contract import plan_card
from contract.card import ModelCard
from contract.plan_card import PlanCard


@dataclass(frozen=True)
class NewPlan:
    """A plan that is to be served.

    Args:
        sm: Kind of GPU, as ``sm90``.
        plan: The serialised engine.
        report: What lies beside it for people: JSON.
        card: What it was built by and for.
    """

    sm: str
    plan: bytes
    report: bytes
    card: PlanCard

    @property
    def file(self) -> str:
        """Name of the plan in the version's folder."""
        return f"model.{self.sm}.plan"


def install(bundle: Bundle, new: NewPlan, folder: Path, name: str, instances: int) -> Path:
    """Add a version with a plan, and with those for other GPUs of the same network.

    Args:
        bundle: The network.
        new: Its plan.
        folder: The repository; made when missing.
        name: Of the model in it.
        instances: How many run side by side on one GPU.

    Returns:
        The folder of the version that is served from now on.

    Raises:
        PublishError: The name is unsafe, the model's folder belongs to somebody else, or the disk
            refuses.
    """

    def release(model_folder: Path) -> Release:
        kept = _others(bundle, new, model_folder)
        plans = {new.file: new.card, **{path.name: card for path, card in kept.items()}}
        files: dict[str, Path | bytes] = {
            MODEL_FILE: bundle.model,
            new.file: new.plan,
            _report_of(new.file): new.report,
        }
        for path in kept:
            files[path.name] = path
            if (report := path.with_name(_report_of(path.name))).is_file():
                files[report.name] = report
        most = min(card.max_batch for card in plans.values())
        return Release(bundle, files, Serving("", most, plans, instances))

    return repository.install(folder, name, release)


def _others(bundle: Bundle, new: NewPlan, model_folder: Path) -> dict[Path, PlanCard]:
    """Find the plans for other GPUs of the version that is served, if it is of this network."""
    if not (model_folder / CONFIG_FILE).is_file():
        return {}
    config = triton_config.read(model_folder)
    parameters = {key: entry.string_value for key, entry in config.parameters.items()}
    served = model_folder / str(triton_config.pinned_version(config))
    if ModelCard.from_parameters(parameters) != bundle.card:
        return {}
    digest = hashlib.sha256(bundle.model.read_bytes()).hexdigest()
    return {
        served / file: card
        for file, card in plan_card.from_parameters(parameters).items()
        if card.model_sha256 == digest
        and card.capability != new.card.capability
        and (served / file).is_file()
    }


def _report_of(file: str) -> str:
    return f"{file.removesuffix('.plan')}.json"
