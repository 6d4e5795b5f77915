"""A new detector or segmenter whose backbone begins with the weights of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from compress.errors import CheckpointError
from compress.networks import checkpoint as checkpoints
from compress.networks import resnet_backbone, swin
from compress.networks.fold import fold_batch_norms


class _Kind(NamedTuple):
    read: Callable[[str], nn.Module]
    # Of the classifier's weights that a backbone holds, and of the backbone's own.
    theirs: str
    ours: str


def fill_backbone(body: Any, checkpoint: str) -> None:
    """Give the backbone of a body the weights of a classifier.

    What a classifier lacks, such as the norms of the maps that a Swin gives out, stays as it is.

    Args:
        body: Of a family with a backbone, changed in place.
        checkpoint: A Swin or a ResNet: a local folder, or a name on the Hugging Face hub.

    Raises:
        CheckpointError: Nothing there, or a network of another kind or shape than the backbone.
    """
    backbone = body.backbone if hasattr(body, "backbone") else body.model.backbone.model
    kind = _KINDS[backbone.config.model_type]
    given = {
        kind.ours + key.removeprefix(kind.theirs): weight
        for key, weight in kind.read(checkpoint).state_dict().items()
        if key.startswith(kind.theirs)
    }
    state = backbone.state_dict()
    filled = [key for key in state if not key.startswith("hidden_states_norms.")]
    for key in filled:
        came = tuple(given[key].shape) if key in given else "no such weight"
        if came != tuple(state[key].shape):
            raise CheckpointError(
                f"{checkpoint} does not fit the backbone of network.architecture: expected {key} "
                f"of shape {tuple(state[key].shape)}, got {came}. Describe the same backbone there."
            )
    backbone.load_state_dict({**state, **{key: given[key] for key in filled}})


def _resnet(checkpoint: str) -> nn.Module:
    models: Any = {"resnet": ResNetForImageClassification}
    classifier = checkpoints.read(checkpoint, models, _from_torchvision)
    # As in the detectors, whose norms are frozen.
    fold_batch_norms(classifier)
    return classifier


def _from_torchvision(folder: Path, _config: dict[str, Any]) -> PreTrainedModel:
    state = checkpoints.read_state(folder)
    inner = {key: weight for key, weight in state.items() if not key.startswith("fc.")}
    try:
        shape = resnet_backbone.architecture_of(inner)
    except KeyError as error:
        raise CheckpointError(f"not a ResNet of torchvision: {folder} lacks {error}") from error
    classifier: Any = ResNetForImageClassification(ResNetConfig(**shape))
    counts = {
        key: value
        for key, value in classifier.resnet.state_dict().items()
        if key.endswith(".num_batches_tracked")
    }
    renamed = [*resnet_backbone.to_transformers(inner), *counts.items()]
    checkpoints.fill(classifier.resnet, renamed, folder, "a ResNet of torchvision")
    body: PreTrainedModel = classifier
    return body


_KINDS = {
    "swin": _Kind(swin.read, "swin.", "swin."),
    "resnet": _Kind(_resnet, "resnet.", ""),
}
