"""DETR on ResNet: its checkpoints, its layers and its graph."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig, SwinConfig

from compress import parity
from compress.errors import CheckpointError, RecipeError
from compress.networks import detr
from tests.compress import detectors, graphs, tiny

ARCHITECTURE: dict[str, Any] = {
    "backbone_config": detectors.RESNET,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 24,
    "num_queries": 7,
    "num_labels": 5,
}
SIDE_PX = 64


def plain(**changes: Any) -> DetrForObjectDetection:
    """Build a DETR of transformers, untouched by this package."""
    torch.manual_seed(0)
    settings = {**ARCHITECTURE, **changes}
    backbone = ResNetConfig(**settings.pop("backbone_config"), out_features=["stage4"])
    body = DetrForObjectDetection(DetrConfig(**settings, backbone_config=backbone))
    graphs.shaken(body)
    return body.eval()


def as_authors(body: nn.Module) -> dict[str, Tensor]:
    """Return a body's weights under the names of facebookresearch/detr."""
    state = body.state_dict()
    found = detectors.joined(
        "backbone.0.body", detectors.torchvision(detectors.part(state, "model.backbone.model"))
    )
    for theirs, ours in {
        "transformer.decoder.norm": "model.decoder.layernorm",
        "query_embed": "model.query_position_embeddings",
        "input_proj": "model.input_projection",
        "class_embed": "class_labels_classifier",
        "bbox_embed": "bbox_predictor",
    }.items():
        found |= detectors.joined(theirs, detectors.part(state, ours))
    names = {
        "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
        "decoder": {
            "norm1": "self_attn_layer_norm",
            "norm2": "encoder_attn_layer_norm",
            "norm3": "final_layer_norm",
        },
    }
    for half in ("encoder", "decoder"):
        for index in range(2):
            stem, theirs = f"model.{half}.layers.{index}", f"transformer.{half}.layers.{index}"
            attentions = {"self_attn": "self_attn"}
            if half == "decoder":
                attentions["multihead_attn"] = "encoder_attn"
            for name, inner in attentions.items():
                found |= detectors.joined(
                    f"{theirs}.{name}", detectors.fused(state, f"{stem}.{inner}")
                )
            others = {"linear1": "mlp.fc1", "linear2": "mlp.fc2", **names[half]}
            for name, inner in others.items():
                found |= detectors.joined(
                    f"{theirs}.{name}", detectors.part(state, f"{stem}.{inner}")
                )
    return found


@pytest.fixture
def network() -> detr.Detr:
    torch.manual_seed(0)
    body = graphs.shaken(detr.build(ARCHITECTURE)).eval()
    return detr.Detr(body, (0.5,) * 3, (0.25,) * 3).eval()


def test_a_checkpoint_of_the_authors_computes_the_same(tmp_path):
    body = plain()
    folder = detectors.write(tmp_path / "detr", as_authors(body), nheads=2)

    loaded = detr.load(folder, 5)

    detectors.assert_equal(detectors.detect(loaded), detectors.detect(body))
    assert loaded.config.decoder_ffn_dim == 24


def test_a_checkpoint_of_transformers_computes_the_same(tmp_path):
    body = plain()
    body.save_pretrained(tmp_path)

    loaded = detr.load(str(tmp_path), 5)

    detectors.assert_equal(detectors.detect(loaded), detectors.detect(body))


def test_of_91_rows_for_coco_those_of_its_80_classes_stay(tmp_path):
    body = plain(num_labels=91)
    body.save_pretrained(tmp_path)
    unused = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    kept = [row for row in range(92) if row not in unused]

    loaded = detr.load(str(tmp_path), 80)

    assert loaded.config.num_labels == 80
    expected = detectors.detect(body)["logits"][..., kept]
    torch.testing.assert_close(detectors.detect(loaded)["logits"], expected, rtol=0, atol=1e-5)


def test_another_number_of_classes_is_refused(tmp_path):
    plain().save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="tells 5 classes apart, the recipe's labels name 4"):
        detr.load(str(tmp_path), 4)


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(tmp_path):
    state = as_authors(plain())
    del state["transformer.decoder.layers.1.multihead_attn.in_proj_bias"]

    with pytest.raises(CheckpointError, match=r"3 weights missing .*1.encoder_attn.k_proj.bias"):
        detr.load(detectors.write(tmp_path / "detr", state, nheads=2), 5)


def test_a_dilated_backbone_is_refused(tmp_path):
    folder = detectors.write(tmp_path / "detr", as_authors(plain()), nheads=2, dilation=True)

    with pytest.raises(CheckpointError, match="dilated last stage"):
        detr.load(folder, 5)


def test_a_backbone_that_is_no_resnet_is_refused(tmp_path):
    swin = SwinConfig(embed_dim=8, depths=[1], num_heads=[1], out_features=["stage1"])
    settings = {**ARCHITECTURE, "backbone_config": swin}
    DetrForObjectDetection(DetrConfig(**settings)).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match=r"'swin'; expected 'resnet'"):
        detr.load(str(tmp_path), 5)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"backbone_config": "x"}, "backbone_config: expected keywords, got 'x'"),
        ({"queries": 7}, "DetrConfig has no queries"),
        ({"backbone_config": {"depth": 7}}, "ResNetConfig has no depth"),
        ({"dilation": True}, "no dilated last stage"),
        ({**ARCHITECTURE, "position_embedding_type": "none"}, "cannot be built"),
    ],
)
def test_an_architecture_that_makes_no_network_is_refused(architecture, message):
    with pytest.raises(RecipeError, match=message):
        detr.build(architecture)


def test_without_a_mask_it_computes_what_transformers_computes(network):
    images = tiny.pictures(2, side_px=SIDE_PX)

    with torch.inference_mode():
        came = network(images)
        found = network.body(pixel_values=network.pixels(images))

    torch.testing.assert_close(came["logits"], found.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(came["boxes"], found.pred_boxes, rtol=0, atol=1e-5)
    assert came["sides"].tolist() == [64, 64, 64, 64]


def test_every_layer_is_named_in_the_order_in_which_it_runs(network):
    named = [layer.name for layer in detr.layers(network.body)]

    weighted = [n for n, m in network.body.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sorted(named) == sorted(weighted)
    stems = [f"body.{name}" for name in named]
    assert graphs.running_order(network, stems, tiny.pictures(1, side_px=SIDE_PX)) == stems


def test_layers_share_a_scale_where_they_read_the_same_tensor_and_nowhere_else(network):
    named = detr.layers(network.body)
    names = [f"body.{layer.name}" for layer in named]

    read = graphs.inputs(network, names, tiny.pictures(2, side_px=SIDE_PX))

    first: dict[str, Tensor] = {}
    for layer in named:
        tensor = read[f"body.{layer.name}"]
        assert torch.equal(tensor, first.setdefault(layer.reads, tensor)), layer.name
    for one, other in itertools.combinations(first, 2):
        assert not torch.equal(first[one], first[other]), f"{one} and {other}"


def test_wide_windows_the_stem_and_the_heads_stay_dense(network):
    dense = {layer.role for layer in detr.layers(network.body) if not layer.prune}
    windows = [
        layer.name
        for layer in detr.layers(network.body)
        if layer.role == "convolution" and not layer.prune
    ]

    assert dense == {"stem", "convolution", "head", "box head"}
    assert all(name.endswith("layer.1.convolution") for name in windows)
    assert all(bool(layer.reason) != layer.prune for layer in detr.layers(network.body))


def test_feature_maps_are_those_of_the_layers(network):
    names = [f"body.{name}" for name in detr.blocks(network.body)]

    shapes = graphs.maps(network, names, tiny.pictures(2, side_px=SIDE_PX))

    assert list(shapes.values()) == [(2, 4, 16)] * 2 + [(2, 7, 16)] * 2


def test_answers_are_sorted_by_score_and_name_no_nothing(network):
    with torch.inference_mode():
        raw = network(tiny.pictures(2, side_px=SIDE_PX))
    answer = network.answer(raw)

    assert list(answer) == list(network.outputs)
    probabilities = raw["logits"].softmax(-1)[..., :5]
    for picture in range(2):
        order = probabilities[picture].max(-1).values.argsort(descending=True)
        expected = probabilities[picture][order]
        assert torch.equal(answer["scores"][picture], expected.max(-1).values)
        assert torch.equal(answer["labels"][picture].long(), expected.argmax(-1))
        x, y, width, height = raw["boxes"][picture][order].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        torch.testing.assert_close(answer["boxes"][picture], corners.clamp(0, 1))
    assert answer["labels"].dtype is torch.int32


@pytest.mark.parametrize(
    "quantized", [pytest.param(False, marks=pytest.mark.slow), True], ids=["float", "int8"]
)
def test_the_graph_answers_as_the_network_does(network, tmp_path, quantized):
    if quantized:
        graphs.quantize(network, detr.FAMILY, tiny.pictures(4, side_px=SIDE_PX))

    operators = graphs.export(network, (SIDE_PX, SIDE_PX), tmp_path / "model.onnx")

    assert not operators.keys() & graphs.FORBIDDEN
    if quantized:
        layers = detr.layers(network.body)
        read = {layer.reads for layer in layers}
        assert operators["DequantizeLinear"] == len(layers) + len(read)
    for count in (1, 3):
        images = tiny.pictures(count, seed=count, side_px=SIDE_PX)
        found = parity.compare(network, tmp_path / "model.onnx", [images], "detect")
        assert found.refusal == ""
        expected = graphs.answer(network, images)
        for runtime in (graphs.run, graphs.run_openvino):
            came = runtime(tmp_path / "model.onnx", images)
            assert [came[name].dtype for name in network.outputs] == [
                np.float32,
                np.int32,
                np.float32,
            ]
            tolerance = 0.05 if quantized else 1e-5
            np.testing.assert_allclose(came["scores"], expected["scores"], atol=tolerance)


def test_stages_that_nothing_reads_are_left_out():
    backbone = {**ARCHITECTURE["backbone_config"], "out_features": ["stage3"]}

    body = detr.build({**ARCHITECTURE, "backbone_config": backbone})

    names = [layer.name for layer in detr.layers(body)]
    assert any(".stages.2." in name for name in names)
    assert not any(".stages.3." in name for name in [*names, *body.state_dict()])
    network = detr.Detr(body, (0.5,) * 3, (0.5,) * 3).eval()
    assert network(tiny.pictures(2, side_px=SIDE_PX))["boxes"].shape == (2, 7, 4)
