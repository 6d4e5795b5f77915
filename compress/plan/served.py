"""The plans that a model's folder serves. Imports neither torch nor pydantic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.plan import triton_config
from compress.plan.bundle import Bundle
from compress.plan.triton_config import CONFIG_FILE
from contract import plan_card
from contract.card import ModelCard
from contract.plan_card import PlanCard

_PLAN: Final = ".plan"


@dataclass(frozen=True)
class ServedPlans:
    """The plans that a folder serves of one network.

    Args:
        cards: By path of the plan; empty where another network is served, or none.
        instances: How many run side by side on one GPU.
    """

    cards: dict[Path, PlanCard] = field(default_factory=dict)
    instances: int = 1

    def files(self) -> dict[str, Path]:
        """Return the plans and their reports, by the names that they have in a version."""
        reports = (path.with_name(report_of(path.name)) for path in self.cards)
        found = (*self.cards, *(report for report in reports if report.is_file()))
        return {path.name: path for path in found}


def plans_of(model_folder: Path, bundle: Bundle) -> ServedPlans:
    """Find the plans of a network that a folder serves.

    Raises:
        PublishError: The folder belongs to somebody else.
    """
    if not (model_folder / CONFIG_FILE).is_file():
        return ServedPlans()
    config = triton_config.read(model_folder)
    parameters = _parameters(config)
    if ModelCard.from_parameters(parameters) != bundle.card:
        return ServedPlans()
    served = model_folder / str(triton_config.pinned_version(config))
    digest = hashlib.sha256(bundle.model.read_bytes()).hexdigest()
    cards = {
        served / file: card
        for file, card in plan_card.from_parameters(parameters).items()
        if card.model_sha256 == digest and (served / file).is_file()
    }
    return ServedPlans(cards, max((group.count for group in config.instance_group), default=1))


def plan_files(config: ModelConfig) -> set[str]:
    """Return the names of the plans that a configuration serves."""
    return set(plan_card.from_parameters(_parameters(config)))


def report_of(file: str) -> str:
    """Return the name of the report beside a plan.

    >>> report_of("model.sm90.plan")
    'model.sm90.json'
    """
    return f"{file.removesuffix(_PLAN)}.json"


def _parameters(config: ModelConfig) -> dict[str, str]:
    return {key: entry.string_value for key, entry in config.parameters.items()}
