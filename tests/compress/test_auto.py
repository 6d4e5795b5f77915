"""Family auto: networks of transformers that no file of this project describes."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers.modeling_outputs import ImageClassifierOutput

from compress.errors import RecipeError
from compress.networks import FAMILIES, auto, deit, left, network
from compress.networks.network import Classifier
from compress.networks.probe import probe
from compress.permute import permute_channels
from compress.pipeline import compress
from compress.prune import TWO_OF_FOUR
from compress.reconstruct import prune_layerwise, strongest_rows
from compress.reference import onnx_asked
from compress.run import Run
from compress.stages import feature_layers
from compress.tasks.classify import Classification
from compress.work import Work
from tests.compress import tiny

VIT: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 24], "depths": [1, 2, 1, 1]}
HEADS = {"num_attention_heads": [1, 2, 2, 2]}
RESNET: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 1]}
SWIN: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
# The configuration, how many blocks there are, and the layers that are quantised but dense.
NETWORKS: dict[str, tuple[dict[str, Any], int, str]] = {
    "vit": (VIT, 2, "classifier"),
    "deit": (VIT, 2, "classifier"),
    "beit": ({**VIT, "use_relative_position_bias": True}, 2, "classifier"),
    "dinov2": (VIT, 2, "classifier"),
    "clip": ({"vision_config": VIT}, 2, "classifier"),
    "siglip": ({"vision_config": VIT}, 2, "classifier"),
    "swinv2": (SWIN, 4, "classifier"),
    "segformer": ({**STAGES, **HEADS}, 5, "classifier dwconv"),
    "pvt": ({**STAGES, **HEADS, "image_size": 32}, 5, "classifier"),
    "convnext": ({**STAGES, "image_size": 32}, 5, "classifier dwconv"),
    "poolformer": (STAGES, 5, "classifier"),
    "resnet": (RESNET, 3, "classifier.1"),
    "regnet": ({**RESNET, "groups_width": 16}, 3, "classifier.1 layer.1.convolution"),
}


def built(kind: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return auto.build({"model_type": kind, **NETWORKS[kind][0], "num_labels": 3, **changes}).eval()


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_linear_and_convolution_is_a_layer_or_has_a_reason(kind):
    body = built(kind)
    weighted = {
        name for name, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }

    layers, unhandled = auto.layers(body), auto.unhandled(body)

    assert {layer.name for layer in layers} | unhandled.keys() == weighted
    assert not unhandled.keys() & {layer.name for layer in layers}
    assert all(unhandled.values())
    dense = [layer for layer in layers if not layer.prune]
    assert all(layer.reason for layer in dense)
    ends = tuple(NETWORKS[kind][2].split())
    assert all(layer.name.endswith(ends) for layer in dense)
    assert [layer.role for layer in dense].count("head") == 1


@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_give_one_map_of_each_picture_with_channels_last(kind):
    body = built(kind)
    size = network.input_size(body) or (64, 64)

    names = auto.blocks(body)

    assert len(names) == NETWORKS[kind][1]
    with network.captured_outputs(body, names) as maps, torch.no_grad():
        body(pixel_values=torch.zeros(2, 3, *size))
    assert list(maps) == names
    last = maps[names[-1]]
    assert len(last) == 2
    config = getattr(body.config, "vision_config", body.config)
    widths = getattr(config, "hidden_sizes", None) or [config.hidden_size]
    assert last.shape[-1] == widths[-1]


def test_layers_of_a_vit_are_those_of_its_own_family():
    body = built("vit")

    found, known = auto.layers(body), deit.layers(body)

    assert [(one.name, one.role, one.prune, one.reason) for one in found] == [
        (one.name, one.role, one.prune, one.reason) for one in known
    ]
    groups = [{one.name for one in found if one.reads == other.reads} for other in found]
    assert groups == [{one.name for one in known if one.reads == other.reads} for other in known]
    assert auto.blocks(body) == deit.blocks(body)


def test_a_network_without_lists_of_blocks_compares_no_feature_maps(tmp_path):
    for part in ("train", "test"):
        tiny.write_pictures(tmp_path / part)
    shape = {"model_type": "mobilenet_v1", "image_size": 32, "depth_multiplier": 0.25}
    recipe = tiny.recipe(tmp_path, network={"family": "auto", "architecture": shape})
    body = auto.build({**shape, "num_labels": 3})
    run = Run(recipe.run, recipe.digest())
    work = Work(recipe, run, Classification(recipe), torch.device("cpu"))

    assert auto.blocks(body) == []
    with pytest.raises(RecipeError, match=r"Set distill\.feature: 0"):
        feature_layers(work, Classifier(body, (0.5,) * 3, (0.5,) * 3))


def test_a_network_for_pictures_of_any_size_is_built_for_none_in_particular():
    assert network.input_size(built("resnet")) is None
    assert network.input_size(built("clip")) == (16, 16)
    assert network.input_size(built("vit", image_size=[16, 24])) == (16, 24)


def test_the_inside_of_a_block_is_no_block():
    # Its squeeze and excitation holds two layers as well, beside convolutions of one.
    layers = [f"regnet.encoder.stages.{at}" for at in ("0.layers.0", "0.layers.1", "1.layers.0")]
    assert auto.blocks(built("regnet")) == layers


def test_a_block_with_as_many_outputs_as_there_are_classes_is_no_head():
    layers = auto.layers(built("vit", num_labels=VIT["hidden_size"]))

    assert [layer.name for layer in layers if layer.role == "head"] == ["classifier"]


def test_a_body_is_left_as_it_was_found():
    body = built("resnet").train()
    body.classifier[1].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in body.state_dict().items()}

    auto.layers(body)

    assert body.training
    assert [n for n, p in body.named_parameters() if not p.requires_grad] == ["classifier.1.bias"]
    assert all(torch.equal(body.state_dict()[name], value) for name, value in before.items())
    assert not any(module._forward_hooks for module in body.modules())


class _Odd(nn.Module):
    """A classifier with one of every kind of layer that is not treated as the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"num_labels": 3, "image_size": 8})()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.twice = nn.Linear(8, 8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.changed = nn.Linear(8, 8)
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.tied = nn.Linear(8, 8)
        self.tie = nn.Linear(8, 8)
        self.tie.weight = self.tied.weight
        self.constant, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)
        self.unreached = nn.Linear(8, 8)
        self.up = nn.ConvTranspose2d(8, 8, 1)
        self.head = nn.Linear(8, 3)
        self.position_embeddings = nn.Parameter(torch.randn(1, 4, 8))

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        maps = self.up(self.mirrored(self.grouped(self.depthwise(self.stem(pixel_values)))))
        tokens = self.twice(self.twice(maps.flatten(2).transpose(1, 2) + self.position_embeddings))
        self.unused(tokens)
        sums = self.one(tokens) + self.other(tokens)
        tokens.add_(self.constant(self.position_embeddings))
        sums = self.tie(self.tied(self.normed(sums))) + self.changed(tokens)
        return ImageClassifierOutput(logits=self.head(sums.mean(dim=1)))


def test_each_odd_layer_is_named_with_its_reason():
    body = _Odd()

    reasons = {layer.name: layer.reason for layer in auto.layers(body)} | auto.unhandled(body)

    told = {
        "depthwise": "depthwise: an output reads one channel",
        "grouped": "grouped: 2 small products",
        "mirrored": "pads by 'reflect'",
        "twice": "runs 2 times a picture",
        "normed": "weight that is computed from other parameters",
        "tied": "shares its weight",
        "tie": "shares its weight",
        "constant": "the same for every picture",
        "unused": "nothing that the answer depends on",
        "unreached": "never reached",
        "head": "the head stays dense",
    }
    assert {name for name, reason in reasons.items() if reason} == told.keys()
    for name, words in told.items():
        assert words in reasons[name]


def test_layers_share_what_they_read_unless_it_was_written_to_between():
    reads = {layer.name: layer.reads for layer in auto.layers(_Odd())}

    assert reads["one"] == reads["other"]
    assert reads["changed"] == "changed"


def test_what_stays_in_float_is_named_with_its_reason():
    body = _Odd()
    handled = [layer.name for layer in auto.layers(body)]

    found = {entry.name: entry for entry in network.left_in_float(body, handled, {})}

    assert found["position_embeddings"].shape == (1, 4, 8)
    assert "no operand of a product" in found["position_embeddings"].reason
    assert "transposed convolution" in found["up.weight"].reason
    assert "stem.weight" not in found
    everything = {name for name, value in body.named_parameters() if value.ndim > 1}
    assert found.keys() | {f"{name}.weight" for name in handled} == everything


@pytest.mark.parametrize("kind", ["swinv2", "siglip", "convnext", "beit"])
def test_every_parameter_of_two_axes_is_handled_or_left_with_a_reason(kind):
    body = built(kind)

    entries = left("auto", body)

    assert all(entry.reason for entry in entries)
    handled = {f"{layer.name}.weight" for layer in auto.layers(body)}
    assert handled | {entry.name for entry in entries} == {
        name for name, value in body.named_parameters() if value.ndim > 1
    }


def test_known_families_name_what_they_leave():
    names = [entry.name.rpartition(".")[2] for entry in left("deit", tiny.distilled_body())]

    assert sorted(names) == ["cls_token", "distillation_token", "position_embeddings"]


def test_a_fused_product_for_query_key_and_value_is_pruned_as_three_apart():
    fused, apart = nn.Linear(16, 48), [nn.Linear(16, 16) for _ in range(3)]
    for part, rows in zip(apart, fused.weight.detach().chunk(3), strict=True):
        part.weight = nn.Parameter(rows.clone())

    one = TWO_OF_FOUR.mask(fused.weight.detach().square())
    three = [TWO_OF_FOUR.mask(part.weight.detach().square()) for part in apart]

    assert torch.equal(one, torch.cat(three))


def test_layers_that_read_one_tensor_through_other_windows_are_pruned_apart():
    body = built("resnet", layer_type="basic")
    layers = [
        network.Layer(f"body.{layer.name}", layer.role, f"body.{layer.reads}")
        for layer in auto.layers(body)
        # 3 * 7 * 7 inputs make no whole groups.
        if layer.prune and layer.role != "patch embedding"
    ]
    shortcut = next(layer for layer in layers if "shortcut" in layer.name)
    readers = [layer for layer in layers if layer.reads == shortcut.reads]
    pictures = [torch.randn(2, 3, 32, 32)]

    masks = prune_layerwise(_Pictures(body), layers, pictures, strongest_rows)

    masks.verify(_Pictures(body), "after pruning")
    assert len(readers) == 2
    assert len({masks.masks[f"{layer.name}.weight"].shape[-1] for layer in readers}) == 2


class _Pictures(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.body(pixel_values=pixels).logits


def test_channels_are_reordered_where_attention_names_its_heads_otherwise():
    classifier = Classifier(built("clip"), (0.5,) * 3, (0.5,) * 3).eval()
    pictures = tiny.pictures(2, side_px=16)
    before = classifier(pictures)

    gained = permute_channels(classifier, _of(classifier), pictures)

    assert len(gained) == 4
    assert max(gained.values()) > 1
    torch.testing.assert_close(classifier(pictures), before)


def test_channels_of_convolutions_are_not_reordered():
    shape = {"image_size": 64, "depths": [1] * 4, "embed_dims": [16, 16, 32, 32]}
    body = auto.build({"model_type": "swiftformer", **shape, "num_labels": 3})
    classifier = Classifier(body, (0.5,) * 3, (0.5,) * 3).eval()

    with pytest.raises(RecipeError, match="no layers whose channels are known"):
        permute_channels(classifier, _of(classifier), tiny.pictures(1, side_px=64))


def _of(classifier: Classifier) -> list[network.Layer]:
    """Name the layers as the pipeline does, from the whole network."""
    return [
        replace(layer, name=f"body.{layer.name}", reads=f"body.{layer.reads}")
        for layer in auto.layers(classifier.body)
    ]


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({}, "model_type: expected one of .*beit.*, got None"),
        ({"model_type": "bert"}, "model_type: expected one of .*, got 'bert'"),
        ({"model_type": "efficientnet"}, "model_type: expected one of .*, got 'efficientnet'"),
        ({"model_type": "vit", "hidden_sise": 4}, "vit has no hidden_sise"),
        ({"model_type": "clip", "vision_config": {"depth": 4}}, "clip has no vision_config.depth"),
        ({"model_type": "vit", **VIT, "hidden_size": "wide"}, "cannot be built"),
        ({"model_type": "vit", **VIT, "image_size": 4}, "gives no logits|cannot be built"),
        # Its weights are standardised anew in each forward pass.
        (
            {"model_type": "bit", **RESNET, "num_groups": 4},
            "nothing in BitForImageClassification can be pruned: .* in a way of its own",
        ),
        ({"model_type": "imagegpt", "n_embd": 16, "n_layer": 1, "n_head": 2}, "gives no logits"),
    ],
)
def test_an_architecture_that_cannot_be_compressed_is_refused(architecture, words):
    with pytest.raises(RecipeError, match=words):
        auto.build(architecture)


def test_a_probe_runs_where_no_weight_has_a_value():
    with torch.device("meta"):
        body = auto.build({"model_type": "vit", **VIT, "num_labels": 3})

    assert probe(body).logits == (2, 3)
    assert FAMILIES["auto"].layers(body) == auto.layers(built("vit"))


@pytest.mark.parametrize(
    ("kind", "placement"),
    [pytest.param("convnext", "gemm", marks=pytest.mark.slow), ("beit", "gemm+add")],
)
def test_a_network_is_compressed_exported_and_published(tmp_path, kind, placement):
    side_px = NETWORKS[kind][0]["image_size"]
    tiny.write_pictures(tmp_path / "train", each=8, side_px=side_px)
    tiny.write_pictures(tmp_path / "test", each=4, side_px=side_px)
    recipe = tiny.recipe(
        tmp_path,
        network={"family": "auto", "architecture": {"model_type": kind, **NETWORKS[kind][0]}},
        input={"height": side_px, "width": side_px, "shorter_side_px": side_px},
        quantize__placement=placement,
    )

    version = compress(recipe)

    scores = onnx_asked(version / "model.onnx")(tiny.pictures(3, side_px=side_px).numpy())["scores"]
    assert scores.shape == (3, 3)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert {entry["name"] for entry in report["left"]} == {
        entry.name for entry in left("auto", built(kind))
    }
