"""Deformable DETR: its checkpoints, its variants, its layers and its graph."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    ResNetConfig,
    SwinConfig,
)

from compress import parity
from compress.errors import CheckpointError, RecipeError
from compress.networks import deformable_detr
from compress.networks.deformable_detector import DeformableDetector
from tests.compress import detectors, graphs, tiny

SWIN: dict[str, Any] = {
    "model_type": "swin",
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
}
SIZES: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 24,
    "num_queries": 7,
    "num_labels": 5,
    "encoder_n_points": 3,
    "decoder_n_points": 2,
}
REFINED = {"with_box_refine": True}
TWO_STAGE = {**REFINED, "two_stage": True, "two_stage_num_proposals": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "refined": REFINED,
    "two stages": TWO_STAGE,
    "single scale": {"num_feature_levels": 1},
    "five levels": {"num_feature_levels": 5},
}
SIDE_PX = 128


def plain(**changes: Any) -> DeformableDetrForObjectDetection:
    """Build a Deformable DETR of transformers, untouched by this package."""
    torch.manual_seed(0)
    settings = {**SIZES, **changes}
    single = settings.get("num_feature_levels") == 1
    stages = ["stage4"] if single else ["stage2", "stage3", "stage4"]
    inner = dict(settings.pop("backbone_config", detectors.RESNET))
    kind = SwinConfig if inner.pop("model_type", "resnet") == "swin" else ResNetConfig
    config = DeformableDetrConfig(**settings, backbone_config=kind(**inner, out_features=stages))
    return graphs.shaken(DeformableDetrForObjectDetection(config)).eval()


def untied(body: DeformableDetrForObjectDetection) -> DeformableDetrForObjectDetection:
    """Give every class head weights of its own, as refined networks are trained."""
    torch.manual_seed(1)
    for index in range(len(body.class_embed)):
        head = nn.Linear(SIZES["d_model"], body.config.num_labels)
        body.class_embed[index] = head
        if body.config.two_stage:
            body.model.decoder.class_embed[index] = head
    return body


def network_of(body: nn.Module) -> DeformableDetector:
    return DeformableDetector(body, (0.5,) * 3, (0.25,) * 3).eval()


def detect(body: nn.Module) -> dict[str, Tensor]:
    """Return what the network of a loaded body says of what ``detectors.detect`` shows."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=generator)
    with torch.inference_mode():
        found = network_of(body).detect(pixels, None)
    return {name: found[name] for name in ("logits", "boxes")}


def as_authors(body: nn.Module) -> dict[str, Tensor]:
    """Return a body's weights under the names of fundamentalvision/Deformable-DETR."""
    state = body.state_dict()
    found = detectors.joined(
        "backbone.0.body", detectors.torchvision(detectors.part(state, "model.backbone.model"))
    )
    for theirs, ours in {
        "transformer.reference_points": "model.reference_points",
        "transformer.enc_output": "model.enc_output",
        "transformer.enc_output_norm": "model.enc_output_norm",
        "transformer.pos_trans": "model.pos_trans",
        "transformer.pos_trans_norm": "model.pos_trans_norm",
        "transformer.decoder.class_embed": "model.decoder.class_embed",
        "transformer.decoder.bbox_embed": "model.decoder.bbox_embed",
        "query_embed": "model.query_position_embeddings",
        "input_proj": "model.input_proj",
        "class_embed": "class_embed",
        "bbox_embed": "bbox_embed",
    }.items():
        found |= detectors.joined(theirs, detectors.part(state, ours))
    found["transformer.level_embed"] = state["model.level_embed"].clone()
    names = {
        "encoder": {
            "self_attn": "self_attn",
            "norm1": "self_attn_layer_norm",
            "norm2": "final_layer_norm",
        },
        "decoder": {
            "cross_attn": "encoder_attn",
            "norm1": "encoder_attn_layer_norm",
            "norm2": "self_attn_layer_norm",
            "norm3": "final_layer_norm",
        },
    }
    for half in ("encoder", "decoder"):
        for index in range(SIZES["encoder_layers"]):
            stem, theirs = f"model.{half}.layers.{index}", f"transformer.{half}.layers.{index}"
            others = {"linear1": "mlp.fc1", "linear2": "mlp.fc2", **names[half]}
            for name, inner in others.items():
                found |= detectors.joined(
                    f"{theirs}.{name}", detectors.part(state, f"{stem}.{inner}")
                )
            if half == "decoder":
                attention = detectors.fused(state, f"{stem}.self_attn")
                found |= detectors.joined(f"{theirs}.self_attn", attention)
    return found


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest) -> DeformableDetector:
    torch.manual_seed(0)
    body = deformable_detr.build(
        {**SIZES, "backbone_config": detectors.RESNET, **VARIANTS[request.param]}
    )
    return network_of(graphs.shaken(body))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_of_transformers_computes_the_same(tmp_path, variant):
    body = plain(**VARIANTS[variant])
    body.save_pretrained(tmp_path)

    loaded = deformable_detr.load(str(tmp_path), 5)

    detectors.assert_equal(detect(loaded), detectors.detect(body, SIDE_PX))


def test_a_swin_backbone_computes_the_same(tmp_path):
    body = plain(backbone_config=SWIN)
    body.save_pretrained(tmp_path)

    loaded = deformable_detr.load(str(tmp_path), 5)

    detectors.assert_equal(detect(loaded), detectors.detect(body, SIDE_PX))


@pytest.mark.parametrize("variant", ["plain", "refined", "two stages", "single scale"])
def test_a_checkpoint_of_the_authors_computes_the_same(tmp_path, variant):
    body = plain(**VARIANTS[variant])
    if VARIANTS[variant].get("with_box_refine"):
        untied(body)
    config = {"nheads": 2, "enc_n_points": 3, "dec_n_points": 2, "two_stage_num_proposals": 6}
    folder = detectors.write(tmp_path / "detr", as_authors(body), **config)

    loaded = deformable_detr.load(folder, 5)

    detectors.assert_equal(detect(loaded), detectors.detect(body, SIDE_PX))


def test_a_refined_checkpoint_of_transformers_keeps_its_last_class_head(tmp_path):
    body = plain(**REFINED)
    body.save_pretrained(tmp_path)
    untied(body)
    file = tmp_path / "model.safetensors"
    heads = {
        f"class_embed.{name}": weight.clone()
        for name, weight in body.class_embed.state_dict().items()
    }
    save_file({**load_file(file), **heads}, file, metadata={"format": "pt"})

    loaded = deformable_detr.load(str(tmp_path), 5)

    detectors.assert_equal(detect(loaded), detectors.detect(body, SIDE_PX))


@pytest.mark.parametrize("variant", ["plain", "two stages"])
def test_of_91_rows_for_coco_those_of_its_80_classes_stay(tmp_path, variant):
    body = plain(num_labels=91, **VARIANTS[variant])
    body.save_pretrained(tmp_path)
    unused = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

    loaded = deformable_detr.load(str(tmp_path), 80)

    expected = detectors.detect(body, SIDE_PX)
    kept = [row for row in range(91) if row not in unused]
    expected["logits"] = expected["logits"][..., kept]
    detectors.assert_equal(detect(loaded), expected)
    assert loaded.config.num_labels == 80


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(tmp_path):
    state = as_authors(plain())
    del state["transformer.encoder.layers.1.self_attn.sampling_offsets.bias"]
    folder = detectors.write(tmp_path / "detr", state, nheads=2, enc_n_points=3, dec_n_points=2)

    with pytest.raises(CheckpointError, match=r"1 weights missing .*self_attn.sampling_offsets"):
        deformable_detr.load(folder, 5)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"backbone_config": "x"}, "backbone_config: expected keywords, got 'x'"),
        ({"queries": 7}, "DeformableDetrConfig has no queries"),
        ({"backbone_config": {"model_type": "vit"}}, "expected resnet, swin, got 'vit'"),
        ({"backbone_config": {"depth": 7}}, "ResNetConfig has no depth"),
        ({"two_stage": True}, "with_box_refine must be True"),
        ({"dilation": True}, "no backbone of transformers has a dilated last stage"),
    ],
)
def test_an_architecture_that_makes_no_network_is_refused(architecture, message):
    with pytest.raises(RecipeError, match=message):
        deformable_detr.build(architecture)


def test_every_layer_is_named_in_the_order_in_which_it_runs(network):
    named = [layer.name for layer in deformable_detr.layers(network.body)]

    weighted = [n for n, m in network.body.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sorted(named) == sorted(weighted)
    stems = [f"body.{name}" for name in named]
    assert graphs.running_order(network, stems, tiny.pictures(1, side_px=SIDE_PX)) == stems


def test_layers_share_a_scale_where_they_read_the_same_tensor_and_nowhere_else(network):
    named = deformable_detr.layers(network.body)
    names = [f"body.{layer.name}" for layer in named]

    read = graphs.inputs(network, names, tiny.pictures(2, side_px=SIDE_PX))

    first: dict[str, Tensor] = {}
    for layer in named:
        tensor = read[f"body.{layer.name}"]
        assert torch.equal(tensor, first.setdefault(layer.reads, tensor)), layer.name
    # It differs from what the encoder gave at the edges of maps that are larger than these.
    first.pop("model.enc_output", None)
    for one, other in itertools.combinations(first, 2):
        assert not torch.equal(first[one], first[other]), f"{one} and {other}"


def test_what_moves_samples_and_boxes_stays_dense(network):
    dense = {layer.role for layer in deformable_detr.layers(network.body) if not layer.prune}

    assert {"sampling offsets", "sampling weights", "box head", "head", "stem"} <= dense
    assert dense <= {
        *("sampling offsets", "sampling weights", "reference points"),
        *("box head", "head", "stem", "convolution", "projection"),
    }
    named = deformable_detr.layers(network.body)
    assert all(bool(layer.reason) != layer.prune for layer in named)


def test_answers_are_the_best_pairs_of_query_and_class(network):
    with torch.inference_mode():
        raw = network(tiny.pictures(2, side_px=SIDE_PX))
    answer = network.answer(raw)

    queries, classes = raw["logits"].shape[1:]
    pairs = [
        (float(raw["logits"][0, query, label].sigmoid()), label, raw["boxes"][0, query])
        for query in range(queries)
        for label in range(classes)
    ]
    pairs.sort(key=lambda pair: -pair[0])
    assert answer["scores"].shape == (2, queries * classes)
    assert answer["labels"].dtype is torch.int32
    assert answer["scores"][0].tolist() == pytest.approx([pair[0] for pair in pairs])
    assert answer["labels"][0].tolist() == [label for _, label, _ in pairs]
    x, y, width, height = pairs[0][2].tolist()
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert answer["boxes"][0, 0].tolist() == pytest.approx([min(1, max(0, c)) for c in corners])


def test_feature_maps_are_those_of_the_layers(network):
    names = [f"body.{name}" for name in deformable_detr.blocks(network.body)]

    shapes = graphs.maps(network, names, tiny.pictures(2, side_px=SIDE_PX))

    assert [len(shape) for shape in shapes.values()] == [3] * 4
    assert all((shape[0], shape[2]) == (2, 64) for shape in shapes.values())


@pytest.mark.parametrize(
    "variant", ["plain quantised", pytest.param("two stages", marks=pytest.mark.slow)]
)
def test_the_graph_answers_as_the_network_does(tmp_path, variant):
    torch.manual_seed(0)
    changes = VARIANTS.get(variant, {})
    settings = {**SIZES, "backbone_config": detectors.RESNET, **changes, "encoder_layers": 1}
    network = network_of(graphs.shaken(deformable_detr.build(settings)))
    quantized = variant.endswith("quantised")
    if quantized:
        graphs.quantize(network, deformable_detr.FAMILY, tiny.pictures(4, side_px=SIDE_PX))
    before = copy.deepcopy(network)

    operators = graphs.export(network, (SIDE_PX, SIDE_PX), tmp_path / "model.onnx")

    assert not operators.keys() & graphs.FORBIDDEN
    if quantized:
        layers = deformable_detr.layers(network.body)
        assert operators["DequantizeLinear"] == len(layers) + len({at.reads for at in layers})
    for count in (1, 3):
        images = tiny.pictures(count, seed=count, side_px=SIDE_PX)
        found = parity.compare(before, tmp_path / "model.onnx", [images], "detect")
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
