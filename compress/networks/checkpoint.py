"""Checkpoints on disk and on the hub, whatever family they are of."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers import logging as transformers_logging

from compress.errors import CheckpointError

# What damaged files make their readers raise.
_UNREADABLE = (
    OSError,
    # transformers needs another package for this model type.
    ImportError,
    ValueError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")


def load(
    checkpoint: str,
    classes: int,
    models: Mapping[str, type[PreTrainedModel]],
    from_timm: Callable[[Path, dict[str, Any]], PreTrainedModel],
) -> PreTrainedModel:
    """Load a classifier from a local folder or from the Hugging Face hub, in float32.

    A folder holds ``config.json`` and the weights, in transformers' key layout or in another.

    Args:
        checkpoint: The folder, or the name on the hub.
        classes: How many the labels name.
        models: The family's classes by transformers' model type.
        from_timm: Loads a folder, given its config, whose config names no model type.

    Raises:
        CheckpointError: Nothing there, another architecture or number of classes, or keys that
            do not fit.
    """
    body = read(checkpoint, models, from_timm)
    require_classes(body, checkpoint, classes)
    return body


def require_classes(body: Any, checkpoint: str, classes: int) -> None:
    """Refuse a body that tells another number of classes apart than the labels name.

    Raises:
        CheckpointError: It does.
    """
    found = body.config.num_labels
    if found != classes:
        raise CheckpointError(
            f"{checkpoint} tells {found} classes apart, the recipe's labels name {classes}. "
            "Give the label set that it was trained on."
        )


def read(
    checkpoint: str,
    models: Mapping[str, type[PreTrainedModel]],
    from_timm: Callable[[Path, dict[str, Any]], PreTrainedModel],
) -> PreTrainedModel:
    """Load as :func:`load` does, whatever the number of classes.

    Raises:
        CheckpointError: Nothing there, another architecture, or keys that do not fit.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
            raise CheckpointError(f"expected a folder with config.json and weights at {checkpoint}")
        return _from_transformers(checkpoint, models)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"expected a config.json in {folder}, found none")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config_file} is not JSON: {error}") from error
    if "model_type" in config:
        return _from_transformers(checkpoint, models)
    return from_timm(folder, config)


def _from_transformers(
    checkpoint: str, models: Mapping[str, type[PreTrainedModel]]
) -> PreTrainedModel:
    # Its own progress bars and warnings say nothing that the checks below do not.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type not in models:
            known = ", ".join(models)
            raise CheckpointError(
                f"{checkpoint} is a {config.model_type!r}; this family takes model types {known}"
            )
        # None, where a file names no class, is not what transformers' automatic classes expect.
        config.architectures = config.architectures or []
        loaded: Any = models[config.model_type].from_pretrained(
            checkpoint,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    except _UNREADABLE as error:
        place = "" if Path(checkpoint).is_dir() else "there is no such folder, and the hub said: "
        raise CheckpointError(f"cannot load {checkpoint}: {place}{error}") from error
    body: PreTrainedModel = loaded[0]
    found = loaded[1]
    if mismatched := sorted(found["mismatched_keys"]):
        key, came, wanted = mismatched[0]
        raise CheckpointError(
            f"{checkpoint}: {key} has shape {tuple(came)}, expected {tuple(wanted)}"
        )
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"{checkpoint} lacks {len(missing)} weights: {', '.join(missing[:5])}"
        )
    return body


def read_state(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a folder as its file names them.

    Raises:
        CheckpointError: No such file, or one that cannot be read.
    """
    for name in _WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            break
    else:
        raise CheckpointError(f"expected one of {', '.join(_WEIGHT_FILES)} in {folder}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The settings of a training run lie beside the weights in files of several authors.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(f"cannot read {path}: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"expected weights by name in {path}, got a {type(state).__name__}")
    # The authors' own files keep the weights under "model", OpenMMLab's under "state_dict".
    weights: Any = state.get("model", state.get("state_dict", state))
    return dict(weights)


def count(state: Mapping[str, Tensor], stem: str) -> int:
    """Return how many numbered parts there are below a stem that ends in a dot.

    >>> count({"layers.0.weight": torch.ones(1), "layers.1.weight": torch.ones(1)}, "layers.")
    2
    """
    return len({key[len(stem) :].split(".")[0] for key in state if key.startswith(stem)})


def fill(body: nn.Module, renamed: Iterable[tuple[str, Tensor]], folder: Path, what: str) -> None:
    """Give a body its weights, all of them and no others.

    Args:
        body: To fill.
        renamed: Weights by the body's own names.
        folder: Where they come from, for errors.
        what: They should be, for errors.

    Raises:
        CheckpointError: Weights are missing, unknown, or of another shape.
    """
    given, expected = dict(renamed), body.state_dict()
    missing = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{folder} does not hold {what}: {len(missing)} weights missing "
            f"({', '.join(missing[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])})"
        )
    for key, weight in given.items():
        if weight.shape != expected[key].shape:
            came, wanted = tuple(weight.shape), tuple(expected[key].shape)
            raise CheckpointError(f"{folder}: {key} has shape {came}, expected {wanted}")
    body.load_state_dict({key: weight.float() for key, weight in given.items()})
