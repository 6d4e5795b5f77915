"""Swin: the same pipeline on windows, stages and patch merging."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.accounting import cost
from compress.errors import CheckpointError
from compress.networks import swin
from compress.pipeline import compress
from compress.prune import TWO_OF_FOUR
from compress.reference import onnx_asked
from contract.card import ModelCard
from tests.compress import tiny

ARCHITECTURE = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "initializer_range": 0.3,
}


@pytest.fixture
def body() -> nn.Module:
    torch.manual_seed(0)
    built = swin.build({**ARCHITECTURE, "num_labels": 3}).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def official(body: nn.Module, merged_first: bool) -> dict[str, Tensor]:
    """Return a body's weights under the names of the Swin authors, or of timm from 0.9 on."""
    names = {
        "swin.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "swin.embeddings.norm": "patch_embed.norm",
        "swin.layernorm": "norm",
        "swin.encoder.": "",
        "classifier": "head.fc" if merged_first else "head",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "attention.relative_position_bias.": "attn.",
    }
    weights = body.state_dict()
    state: dict[str, Tensor] = {}
    for key in weights:
        if ".k_proj." in key or ".v_proj." in key:
            continue
        parts = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        fused = torch.cat([weights[part] for part in dict.fromkeys(parts)]).contiguous()
        renamed = key.replace("attention.q_proj", "attn.qkv")
        for name, other in names.items():
            renamed = renamed.replace(name, other)
        if merged_first and "downsample" in renamed:
            _, stage, rest = renamed.split(".", 2)
            renamed = f"layers.{int(stage) + 1}.{rest}"
        state[renamed] = fused
    if not merged_first:
        state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
        state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    return state


def folder_of(state: dict[str, Tensor], folder: Path, **config: int) -> str:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"img_size": 16}))
    return str(folder)


@pytest.mark.parametrize("merged_first", [True, False], ids=["timm", "authors"])
def test_a_checkpoint_in_another_layout_computes_the_same(body, tmp_path, merged_first):
    loaded = swin.load(folder_of(official(body, merged_first), tmp_path / "swin"), 3).eval()

    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected, came = (one(pixel_values=pixels).logits for one in (body, loaded))
    assert expected.std() > 0.1
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("merged_first", [True, False], ids=["timm", "authors"])
def test_a_384_pixel_checkpoint_is_known_by_its_windows_of_12(tmp_path, merged_first):
    torch.manual_seed(0)
    shape = {"embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 2]}
    large = swin.build({**shape, "image_size": 384, "window_size": 12, "num_labels": 3}).eval()
    folder = folder_of(official(large, merged_first), tmp_path / "swin", num_classes=3)

    loaded = swin.load(folder, 3).eval()

    assert (loaded.config.image_size, loaded.config.window_size) == (384, 12)
    tables = [w for name, w in loaded.named_parameters() if "relative_position_bias" in name]
    assert [tuple(table.shape) for table in tables] == [(23 * 23, h) for h in (1, 1, 2, 2, 2)]
    pixels = torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        expected, came = (one(pixel_values=pixels).logits for one in (large, loaded))
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)


def test_a_checkpoint_in_the_layout_of_transformers_computes_the_same(body, tmp_path):
    body.save_pretrained(tmp_path)

    loaded = swin.load(str(tmp_path), 3)

    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in body.state_dict().items())


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(body, tmp_path):
    state = official(body, merged_first=False)
    del state["layers.1.blocks.0.mlp.fc2.weight"]

    with pytest.raises(CheckpointError, match=r"1 weights missing .*layers.1.blocks.0.mlp.fc2"):
        swin.load(folder_of(state, tmp_path / "swin"), 3)


def test_every_layer_of_every_stage_has_a_role(body):
    roles = [layer.role for layer in swin.layers(body)]

    block = ["query", "key", "value", "attention output", "FFN in", "FFN out"]
    assert roles == ["patch embedding", *block * 2, "patch merging", *block * 2, "head"]
    assert [layer.role for layer in swin.layers(body) if not layer.prune] == ["head"]
    assert len(swin.blocks(body)) == 4


def test_multiply_accumulates_of_windows_by_hand(body):
    network = tiny.Classifier(body, (0.5,) * 3, (0.5,) * 3).eval()
    named = {f"body.{layer.name}": (8, 8) for layer in swin.layers(body)}

    total, costs = cost(
        network, torch.zeros(1, 16, 16, 3), dict.fromkeys(named, TWO_OF_FOUR), named
    )

    # 64 tokens of 16 channels, then 16 tokens of 32; a token meets the 16 of its window, twice.
    attention = 2 * 2 * (64 * 16 * 16 + 16 * 16 * 32)
    assert total.dense_macs == sum(entry.macs for entry in costs) + attention
    by_name = {entry.name: entry.macs for entry in costs}
    assert by_name["body.swin.encoder.layers.0.downsample.reduction"] == 16 * 64 * 32


@pytest.mark.parametrize(
    "placement", [pytest.param("gemm", marks=pytest.mark.slow), "gemm+add+bmm"]
)
def test_a_swin_is_compressed_exported_and_published(tmp_path, placement):
    tiny.write_pictures(tmp_path / "train", each=8, side_px=20)
    tiny.write_pictures(tmp_path / "test", each=4, side_px=20)
    recipe = tiny.recipe(
        tmp_path,
        network={"family": "swin", "architecture": ARCHITECTURE},
        input={"height": 16, "width": 16, "shorter_side_px": 16},
        quantize__placement=placement,
    )

    version = compress(recipe)

    card = ModelCard.from_json((tmp_path / "run/bundle/card.json").read_text())
    assert (card.precision.weights, card.precision.sparsity) == ("int8", "2:4")
    scores = onnx_asked(version / "model.onnx")(tiny.pictures(3, side_px=16).numpy())["scores"]
    assert scores.shape == (3, 3)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["accuracy"][0]["quantized"]["top1"] >= 0.9
