"""UPerNet on Swin: its checkpoints, its layers and its graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from compress.errors import CheckpointError, RecipeError
from compress.networks import upernet
from compress.networks.segmenter import Segmenter
from tests.compress import graphs, tiny

BACKBONE: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "initializer_range": 0.3,
}
ARCHITECTURE: dict[str, Any] = {
    "backbone_config": BACKBONE,
    "hidden_size": 16,
    "num_labels": 5,
}
SIDE_PX = 64


@pytest.fixture
def body() -> nn.Module:
    torch.manual_seed(0)
    return graphs.shaken(upernet.build(ARCHITECTURE)).eval()


@pytest.fixture
def segmenter(body: nn.Module) -> Segmenter:
    return Segmenter(body, (0.5,) * 3, (0.25,) * 3).eval()


def channel_orders(channels: int) -> tuple[list[int], list[int]]:
    """Number what one place reads of four neighbours, as ``nn.Unfold`` and as Swin's authors do."""
    numbers = torch.arange(4.0 * channels).reshape(1, channels, 2, 2)
    unfolded = nn.functional.unfold(numbers, 2, stride=2).flatten()
    rows, columns = (0, 1, 0, 1), (0, 0, 1, 1)
    parts = [numbers[0, :, row, column] for row, column in zip(rows, columns, strict=True)]
    return unfolded.int().tolist(), torch.cat(parts).int().tolist()


def as_authors(body: nn.Module) -> dict[str, Tensor]:
    """Return a body's weights under the names of the Swin authors' segmentation repository."""
    names = {
        "backbone.swin.embeddings.patch_embeddings.projection": "backbone.patch_embed.proj",
        "backbone.swin.embeddings.norm": "backbone.patch_embed.norm",
        "backbone.swin.encoder.": "backbone.",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "attention.q_proj": "attn.qkv",
        "attention.relative_position_bias.": "attn.",
        **{f"backbone.hidden_states_norms.stage{n + 1}": f"backbone.norm{n}" for n in range(4)},
        "batch_norm": "bn",
        "decode_head.classifier": "decode_head.conv_seg",
    }
    weights = body.state_dict()
    state: dict[str, Tensor] = {}
    for key in weights:
        if ".k_proj." in key or ".v_proj." in key:
            continue
        parts = dict.fromkeys(key.replace("q_proj", f"{part}_proj") for part in "qkv")
        renamed = key
        for name, other in names.items():
            renamed = renamed.replace(name, other)
        state[renamed] = (
            torch.cat([weights[part] for part in parts])
            if len(parts) > 1
            else (weights[key].clone())
        )
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    state["auxiliary_head.conv_seg.weight"] = torch.zeros(5, 4, 1, 1)
    return state


def as_openmmlab(body: nn.Module) -> dict[str, Tensor]:
    """Return them under the names and in the order of mmsegmentation."""
    names = {
        "backbone.layers.": "backbone.stages.",
        ".attn.": ".attn.w_msa.",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
        "patch_embed.proj": "patch_embed.projection",
    }
    state: dict[str, Tensor] = {}
    for key, weight in as_authors(body).items():
        renamed = key
        for name, other in names.items():
            renamed = renamed.replace(name, other)
        order = list(range(weight.shape[-1])) if weight.ndim else ...
        if ".downsample." in key:
            unfolded, authors = channel_orders(weight.shape[-1] // 4)
            position = {number: place for place, number in enumerate(authors)}
            order = [position[number] for number in unfolded]
        state[renamed] = weight[..., order].contiguous()
    return state


LAYOUTS = {"openmmlab": as_openmmlab, "authors": as_authors}


def write(folder: Path, state: dict[str, Tensor], **config: Any) -> str:
    folder.mkdir()
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def logits(body: nn.Module) -> Tensor:
    pixels = torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return body.eval()(pixel_values=pixels).logits


def margins(segmenter: Segmenter, images: Tensor) -> npt.NDArray[np.float32]:
    """Return by how much the best class of each pixel leads, in deviations of the logits."""
    with torch.inference_mode():
        raw = segmenter(images)
    best = raw.topk(2, dim=1).values
    return ((best[:, 0] - best[:, 1]) / raw.std()).numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_in_another_layout_computes_the_same(body, tmp_path, layout):
    folder = write(tmp_path / "upernet", LAYOUTS[layout](body))

    loaded = upernet.load(folder, 5)

    expected = logits(body)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)


def test_openmmlab_merges_patches_as_unfold_orders_them(body, tmp_path):
    state = as_openmmlab(body)
    loaded = upernet.load(write(tmp_path / "upernet", state), 5)
    places = torch.randn(2, 6 * 10, 8)

    came = loaded.backbone.swin.encoder.layers[0].downsample(places, (6, 10))

    stem = "backbone.stages.0.downsample"
    picture = places.reshape(2, 6, 10, 8).permute(0, 3, 1, 2)
    merged = nn.functional.unfold(picture, 2, stride=2).transpose(1, 2)
    scaled = nn.functional.layer_norm(
        merged, (32,), state[f"{stem}.norm.weight"], state[f"{stem}.norm.bias"]
    )
    expected = scaled @ state[f"{stem}.reduction.weight"].T
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)


def test_a_checkpoint_of_transformers_loads_without_its_auxiliary_head(tmp_path):
    torch.manual_seed(0)
    config = UperNetConfig(
        **{
            **ARCHITECTURE,
            "backbone_config": {
                "model_type": "swin",
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                **BACKBONE,
            },
        }
    )
    whole = graphs.shaken(UperNetForSemanticSegmentation(config)).eval()
    whole.save_pretrained(tmp_path)

    loaded = upernet.load(str(tmp_path), 5)

    assert whole.auxiliary_head is not None
    assert not [name for name, _ in loaded.named_modules() if "auxiliary" in name]
    torch.testing.assert_close(logits(loaded), logits(whole), rtol=0, atol=1e-5)


def test_a_backbone_that_is_no_swin_is_refused(tmp_path):
    resnet = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    small = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "embedding_size": 8}
    config = UperNetConfig(backbone_config={**resnet, **small}, num_labels=5, hidden_size=8)
    UperNetForSemanticSegmentation(config).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match=r"'resnet'; expected 'swin'"):
        upernet.load(str(tmp_path), 5)


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(body, tmp_path):
    state = as_openmmlab(body)
    del state["decode_head.fpn_convs.1.bn.running_var"]

    with pytest.raises(CheckpointError, match=r"fpn_convs.1.batch_norm.running_var"):
        upernet.load(write(tmp_path / "upernet", state), 5)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"backbone_config": "x"}, "backbone_config: expected keywords, got 'x'"),
        ({"window": 7}, "UperNetConfig has no window"),
        ({"backbone_config": {"windows": 7}}, "SwinConfig has no windows"),
        ({"backbone_config": {"num_heads": [3], "depths": [1, 1]}}, "cannot be built"),
    ],
)
def test_an_architecture_that_makes_no_network_is_refused(architecture, message):
    with pytest.raises(RecipeError, match=message):
        upernet.build(architecture)


def test_every_layer_is_named_in_the_order_in_which_it_runs(segmenter):
    named = upernet.layers(segmenter.body)

    weighted = [
        n for n, m in segmenter.body.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    assert sorted(layer.name for layer in named) == sorted(weighted)
    head = [layer.name for layer in named if layer.name.startswith("decode_head")]
    ran = graphs.running_order(segmenter.body, head, torch.zeros(1, 3, SIDE_PX, SIDE_PX))
    assert head == ran
    assert all(bool(layer.reason) != layer.prune for layer in named)


def test_windows_and_the_classifier_stay_dense(segmenter):
    dense = {layer.name: layer.role for layer in upernet.layers(segmenter.body) if not layer.prune}

    windows = ["bottleneck", "fpn_convs.0", "fpn_convs.1", "fpn_convs.2", "fpn_bottleneck"]
    assert dense == {
        **{f"decode_head.{name}.conv": "convolution" for name in windows},
        "decode_head.classifier": "head",
    }


def test_feature_maps_are_those_of_the_blocks_and_of_what_the_head_fuses(segmenter):
    names = [f"body.{name}" for name in upernet.blocks(segmenter.body)]

    shapes = list(graphs.maps(segmenter, names, tiny.pictures(2, side_px=SIDE_PX)).values())

    assert shapes[:5] == [(2, 256, 8), (2, 64, 16), (2, 64, 16), (2, 16, 32), (2, 4, 64)]
    assert shapes[5:] == [(2, 2, 2, 16), (2, 16, 16, 16)]


def test_the_answer_is_the_best_class_of_each_pixel(segmenter):
    images = tiny.pictures(2, side_px=SIDE_PX)
    with torch.inference_mode():
        raw = segmenter(images)

    answer = segmenter.answer(raw)

    assert list(answer) == list(segmenter.outputs)
    assert answer["class_map"].dtype is torch.uint8
    assert torch.equal(answer["class_map"].long(), raw.argmax(dim=1))
    assert len(answer["class_map"].unique()) > 1


@pytest.mark.parametrize(
    "quantized", [pytest.param(False, marks=pytest.mark.slow), True], ids=["float", "int8"]
)
def test_the_graph_answers_as_the_network_does(segmenter, tmp_path, quantized):
    if quantized:
        graphs.quantize(segmenter, upernet.FAMILY, tiny.pictures(4, side_px=SIDE_PX))

    operators = graphs.export(segmenter, (SIDE_PX, SIDE_PX), tmp_path / "model.onnx")

    assert not operators.keys() & graphs.FORBIDDEN
    if quantized:
        layers = upernet.layers(segmenter.body)
        read = {layer.reads for layer in layers}
        assert operators["DequantizeLinear"] == len(layers) + len(read)
    for count in (1, 3):
        images = tiny.pictures(count, seed=count, side_px=SIDE_PX)
        expected = graphs.answer(segmenter, images)["class_map"]
        # Rounding flips a few activations, which decides between classes that are close.
        sure = margins(segmenter, images) > (0.1 if quantized else 1e-4)
        assert sure.mean() > 0.8
        for runtime in (graphs.run, graphs.run_openvino):
            came = runtime(tmp_path / "model.onnx", images)["class_map"]
            assert came.dtype == np.uint8
            assert np.mean(came[sure] == expected[sure]) > (0.95 if quantized else 0.9999)
