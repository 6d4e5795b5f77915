"""Published checkpoints of Mask R-CNN on Swin, made here in their layouts, and our own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.errors import CheckpointError
from compress.networks import mask_rcnn
from compress.networks.region_detector import RegionDetector
from tests.compress import tiny_regions

PUBLISHED_CASCADE = {"stages": 3, "box_convs": 2, "box_linears": 1, "box_norm": True}


def network(**changes: Any) -> RegionDetector:
    return tiny_regions.shaken(tiny_regions.network(seed=1, **changes))


def as_published(body: nn.Module, *, by_openmmlab: bool) -> dict[str, Tensor]:
    """Return a body's weights under the names of a published checkpoint."""
    names = {
        r"neck\.laterals\.(\d)": r"neck.lateral_convs.\1.conv",
        r"neck\.outputs\.(\d)": r"neck.fpn_convs.\1.conv",
        r"rpn\.conv": "rpn_head.rpn_conv",
        r"rpn\.objectness": "rpn_head.rpn_cls",
        r"rpn\.offsets": "rpn_head.rpn_reg",
        r"box_heads\.(\d)\.convs\.(\d)": r"roi_head.bbox_head.\1.shared_convs.\2.conv",
        r"box_heads\.(\d)\.norms\.(\d)": r"roi_head.bbox_head.\1.shared_convs.\2.bn",
        r"box_heads\.(\d)\.linears": r"roi_head.bbox_head.\1.shared_fcs",
        r"box_heads\.(\d)\.classes": r"roi_head.bbox_head.\1.fc_cls",
        r"box_heads\.(\d)\.offsets": r"roi_head.bbox_head.\1.fc_reg",
        r"mask_heads\.(\d)\.convs\.(\d)": r"roi_head.mask_head.\1.convs.\2.conv",
        r"mask_heads\.(\d)\.enlarge": r"roi_head.mask_head.\1.upsample",
        r"mask_heads\.(\d)\.classes": r"roi_head.mask_head.\1.conv_logits",
        r"backbone\.hidden_states_norms\.stage1": "backbone.norm0",
        r"backbone\.hidden_states_norms\.stage2": "backbone.norm1",
        r"backbone\.hidden_states_norms\.stage3": "backbone.norm2",
        r"backbone\.hidden_states_norms\.stage4": "backbone.norm3",
        r"backbone\.swin\.embeddings\.patch_embeddings\.projection": "backbone.patch_embed.proj",
        r"backbone\.swin\.embeddings\.norm": "backbone.patch_embed.norm",
        r"backbone\.swin\.encoder": "backbone",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        r"attention\.q_proj": "attn.qkv",
        r"attention\.o_proj": "attn.proj",
        r"attention\.relative_position_bias\.": "attn.",
    }
    openmmlab = {
        r"patch_embed\.proj\b": "patch_embed.projection",
        r"backbone\.layers": "backbone.stages",
        r"\.attn\.": ".attn.w_msa.",
        r"mlp\.fc1": "ffn.layers.0.0",
        r"mlp\.fc2": "ffn.layers.1",
    }
    weights = body.state_dict()
    single = not any(key.startswith("box_heads.1.") for key in weights)
    names |= openmmlab if by_openmmlab else {}
    names |= {r"(bbox|mask)_head\.0\.": r"\1_head."} if single else {}
    state = {}
    for key in weights:
        if ".k_proj." in key or ".v_proj." in key:
            continue
        fused = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        weight = torch.cat([weights[part] for part in fused]) if "q_proj" in key else weights[key]
        published = key
        for pattern, theirs in names.items():
            published = re.sub(pattern, theirs, published)
        if by_openmmlab and "downsample" in key:
            weight = _unfolded(weight)
        state[published] = weight.contiguous()
    if not by_openmmlab:
        state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    return state


def _unfolded(weight: Tensor) -> Tensor:
    """Order what patch merging reads as ``nn.Unfold`` lays it out, found by trying it."""
    channels = weight.shape[-1] // 4
    numbers = torch.arange(4.0 * channels).reshape(1, channels, 2, 2)
    # As transformers joins a window: column by column, each with all of its channels.
    joined = torch.cat([numbers[0, :, row, col] for col in range(2) for row in range(2)])
    place = {int(number): index for index, number in enumerate(joined)}
    unfolded = nn.Unfold(2, stride=2)(numbers)[0, :, 0]
    return weight[..., [place[int(number)] for number in unfolded]]


def folder_of(state: dict[str, Tensor], folder: Path, config: dict[str, Any]) -> str:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def told(**changes: Any) -> dict[str, Any]:
    """Return what weights do not tell, for a folder's config."""
    known = ("backbone", "num_labels", "channels", "hidden", "mask_convs")
    whole = {**tiny_regions.ARCHITECTURE, **changes}
    return {key: value for key, value in whole.items() if key not in known}


@pytest.mark.parametrize("by_openmmlab", [True, False], ids=["openmmlab", "authors"])
@pytest.mark.parametrize("cascade", [{}, PUBLISHED_CASCADE], ids=["mask", "cascade"])
def test_a_published_checkpoint_computes_the_same(tmp_path, by_openmmlab, cascade):
    detector = network(**cascade)
    state = as_published(detector.body, by_openmmlab=by_openmmlab)
    folder = folder_of(state, tmp_path / "published", told())

    loaded = RegionDetector(mask_rcnn.load(folder, 2), (0.5,) * 3, (0.5,) * 3).eval()

    assert loaded.body.config.as_dict().keys() == detector.body.config.as_dict().keys()
    weights = loaded.body.state_dict()
    assert all(torch.equal(weights[key], one) for key, one in detector.body.state_dict().items())
    images, _ = tiny_regions.rectangles()
    expected, came = tiny_regions.answers(detector, images), tiny_regions.answers(loaded, images)
    assert expected["scores"].max() > 0.1
    assert all(torch.equal(came[name], expected[name]) for name in detector.outputs)


def test_weights_below_a_state_dict_are_found(tmp_path):
    body = network().body
    state = as_published(body, by_openmmlab=False)
    (tmp_path / "config.json").write_text(json.dumps(told()))
    torch.save({"meta": {"epoch": 36}, "state_dict": state}, tmp_path / "model.pth")

    loaded = mask_rcnn.load(str(tmp_path), 2)

    assert torch.equal(loaded.rpn.conv.weight, body.rpn.conv.weight)


def test_a_saved_body_is_loaded_as_it_was(tmp_path):
    body = network().body
    body.save_pretrained(tmp_path / "saved")

    loaded = mask_rcnn.load(str(tmp_path / "saved"), 2)

    assert loaded.config == body.config
    weights = loaded.state_dict()
    assert all(torch.equal(weights[key], one) for key, one in body.state_dict().items())


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(tmp_path):
    body = network().body
    state = as_published(body, by_openmmlab=True)
    del state["roi_head.mask_head.upsample.weight"]
    folder = folder_of(state, tmp_path / "lacking", told())

    with pytest.raises(CheckpointError, match=r"1 weights missing \(mask_heads.0.enlarge.weight"):
        mask_rcnn.load(folder, 2)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    folder = folder_of({"backbone.norm0.weight": torch.ones(4)}, tmp_path / "other", {})

    with pytest.raises(CheckpointError, match="not a Swin checkpoint"):
        mask_rcnn.load(folder, 2)


def test_a_checkpoint_of_another_number_of_classes_is_refused(tmp_path):
    body = network().body
    body.save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="tells 2 classes apart, the recipe's labels name 80"):
        mask_rcnn.load(str(tmp_path), 80)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a folder with config.json and weights at"):
        mask_rcnn.load(str(tmp_path), 2)
