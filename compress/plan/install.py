"""Puts a plan into a model repository, beside those for other GPUs.

A version's folder holds the graph and one plan for each kind of GPU, so that one repository serves
a mixed fleet, and the embedded executors too. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from compress.plan import repository
from compress.plan.bundle import MODEL_FILE, Bundle
from compress.plan.repository import Release
from compress.plan.served import plans_of, report_of
from compress.plan.triton_config import Serving
from contract.plan_card import PlanCard

_LOG = logging.getLogger(__name__)


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


def install(
    bundle: Bundle, new: NewPlan, folder: Path, name: str, instances: int | None = None
) -> Path:
    """Add a version with a plan, and with those for other GPUs of the same network.

    Args:
        bundle: The network.
        new: Its plan.
        folder: The repository; made when missing.
        name: Of the model in it.
        instances: How many run side by side on one GPU; as many as before if None.

    Returns:
        The folder of the version that is served from now on.

    Raises:
        PublishError: The name is unsafe, the model's folder belongs to somebody else, or the disk
            refuses.
    """

    def release(model_folder: Path) -> Release:
        served = plans_of(model_folder, bundle)
        others = {
            path: card
            for path, card in served.cards.items()
            if card.capability != new.card.capability
        }
        kept = dataclasses.replace(served, cards=others)
        plans = {new.file: new.card, **{path.name: card for path, card in others.items()}}
        least = min(plans, key=lambda file: plans[file].max_batch)
        if plans[least].max_batch < new.card.max_batch:
            _LOG.info(
                "%s: at most %d pictures at once, as many as %s takes",
                name,
                plans[least].max_batch,
                least,
            )
        files: dict[str, Path | bytes] = {
            MODEL_FILE: bundle.model,
            new.file: new.plan,
            report_of(new.file): new.report,
            **kept.files(),
        }
        serving = Serving("", plans[least].max_batch, plans, instances or served.instances)
        return Release(bundle, files, serving)

    return repository.install(folder, name, release)
