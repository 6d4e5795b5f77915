"""Backbones that begin with the weights of a classifier."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from compress.errors import CheckpointError
from compress.networks import FAMILIES
from compress.networks.pretrained import fill_backbone
from compress.recipe import Network
from tests.compress import detectors
from tests.end_to_end.systems import ARCHITECTURES, RESNET, SIDE_PX, SWIN

SWINS = ["upernet", "mask_rcnn", "cascade_mask_rcnn"]
RESNETS = ["detr", "deformable_detr"]


def body(family):
    built = FAMILIES[family].build({**ARCHITECTURES[family], "num_labels": 3})
    return built.eval()


def resnet():
    """Return a classifier whose norms are not those of a new network."""
    classifier = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=5))
    pixels = torch.randn(4, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classifier.train()(pixels)
    return classifier.eval()


def last_map(network, pixels):
    """Return the last map that a backbone gives out, and the place of its stage."""
    backbone = network.backbone if hasattr(network, "backbone") else network.model.backbone.model
    with torch.no_grad():
        found = backbone(pixel_values=pixels).feature_maps[-1]
    return found, backbone.stage_names.index(backbone.out_features[-1])


@pytest.mark.parametrize("family", SWINS)
def test_a_swin_backbone_computes_what_the_classifier_computes(family, tmp_path):
    # Of another picture size too, at which no map is smaller than a window.
    side_px = 2 * SIDE_PX
    config = SwinConfig(**{**SWIN, "image_size": side_px}, num_labels=5)
    classifier = SwinForImageClassification(config).eval()
    classifier.save_pretrained(tmp_path)
    network = body(family)
    pixels = torch.randn(2, 3, side_px, side_px)

    fill_backbone(network, str(tmp_path))

    with torch.no_grad():
        hidden = classifier(pixel_values=pixels, output_hidden_states=True)
    # The last map has passed the last stage; norms of maps are new, and begin as the identity
    # on what is normalised.
    last = hidden.reshaped_hidden_states[-1]
    expected = torch.nn.functional.layer_norm(last.permute(0, 2, 3, 1), last.shape[1:2])
    torch.testing.assert_close(last_map(network, pixels)[0], expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("layout", ["transformers", "torchvision"])
@pytest.mark.parametrize("family", RESNETS)
def test_a_resnet_backbone_computes_what_the_classifier_computes(family, layout, tmp_path):
    classifier = resnet()
    folder = tmp_path / "classifier"
    if layout == "transformers":
        classifier.save_pretrained(folder)
    else:
        state = {
            key: weight
            for key, weight in classifier.resnet.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        head = {"fc.weight": torch.zeros(5, 64), "fc.bias": torch.zeros(5)}
        detectors.write(folder, {**detectors.torchvision(state), **head})
    network = body(family)
    pixels = torch.randn(2, 3, SIDE_PX, SIDE_PX)

    fill_backbone(network, str(folder))

    with torch.no_grad():
        stages = classifier(pixel_values=pixels, output_hidden_states=True).hidden_states
    found, stage = last_map(network, pixels)
    torch.testing.assert_close(found, stages[stage], rtol=1e-3, atol=1e-4)


def test_a_classifier_of_another_shape_is_refused(tmp_path):
    wider = SwinConfig(**{**SWIN, "embed_dim": 32})
    SwinForImageClassification(wider).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match=r"does not fit the backbone.*of shape \(16,"):
        fill_backbone(body("upernet"), str(tmp_path))


def test_a_classifier_of_another_kind_is_refused(tmp_path):
    resnet().save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="is a 'resnet'; this family takes model types swin"):
        fill_backbone(body("upernet"), str(tmp_path))


def test_no_classifier_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a folder with config\.json"):
        fill_backbone(body("mask_rcnn"), str(tmp_path / "none"))


@pytest.mark.parametrize(
    "settings",
    [
        {"family": "deit", "architecture": {"hidden_size": 8}},
        {"family": "mask_rcnn", "checkpoint": "folder"},
    ],
)
def test_a_backbone_without_an_architecture_that_has_one_is_refused(settings):
    with pytest.raises(ValidationError, match="give it with architecture and a family among"):
        Network(**settings, backbone="folder")
