"""Finds the graph and the card of an exported network, in a bundle or in a model repository."""

from __future__ import annotations

from pathlib import Path

from compress.errors import PlanError
from compress.plan import triton_config
from contract.card import ModelCard


def find(folder: Path) -> tuple[Path, ModelCard]:
    """Return the ONNX file and the card of a bundle, or of a model's folder in a repository.

    Raises:
        PlanError: The folder is neither, its configuration cannot be read, or it has no ONNX file.
        CardError: The card cannot be read.
    """
    if (folder / "card.json").is_file():
        model = folder / "model.onnx"
        card = ModelCard.from_json((folder / "card.json").read_text(encoding="utf-8"))
    elif (folder / "config.pbtxt").is_file():
        model, card = _from_repository(folder)
    else:
        raise PlanError(
            f"expected a bundle (card.json) or a model's folder in a repository (config.pbtxt) "
            f"at {folder}, found neither"
        )
    if not model.is_file():
        raise PlanError(f"expected an ONNX file at {model}, found none")
    return model, card


def _from_repository(folder: Path) -> tuple[Path, ModelCard]:
    config = triton_config.read(folder)
    version = triton_config.pinned_version(config)
    found = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    if version is None and not found:
        raise PlanError(f"expected a version folder, such as 1, in {folder}, found none")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    model = folder / str(version or max(found)) / "model.onnx"
    return model, ModelCard.from_parameters(parameters)
