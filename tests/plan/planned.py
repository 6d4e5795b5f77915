"""A bundle to plan, and what is looked at in a repository afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.plan import recorded
from compress.plan.planning import Order
from contract import plan_card
from tests.bundles import colour_card, colour_graph, write_bundle


def write(folder: Path) -> Path:
    """Write a bundle with its recorded answers."""
    folder = write_bundle(folder, colour_graph(), colour_card())
    pictures = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    recorded.ask(folder / "model.onnx", pictures, "noise").save(folder)
    return folder


def ordered(bundle: Path, **changes: object) -> Order:
    return Order(bundle, bundle.parent / "repository", "colours", **changes)  # type: ignore[arg-type]


def config_of(version: Path) -> ModelConfig:
    return text_format.Parse((version.parent / "config.pbtxt").read_text(), ModelConfig())


def plans_of(version: Path) -> dict[str, plan_card.PlanCard]:
    parameters = {key: entry.string_value for key, entry in config_of(version).parameters.items()}
    return plan_card.from_parameters(parameters)
