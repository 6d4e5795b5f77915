"""DeiT checkpoints in the key layouts of transformers and of timm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.errors import CheckpointError
from compress.networks import deit
from tests.compress import tiny


def timm_state(body: nn.Module, distilled: bool) -> dict[str, Tensor]:
    """Rename by hand, one line a weight, from transformers' keys to timm's."""
    state = body.state_dict()
    stem = "deit" if distilled else "vit"
    found = {
        "cls_token": state[f"{stem}.embeddings.cls_token"],
        "pos_embed": state[f"{stem}.embeddings.position_embeddings"],
    }
    if distilled:
        found["dist_token"] = state[f"{stem}.embeddings.distillation_token"]
    for kind in ("weight", "bias"):
        patches = f"{stem}.embeddings.patch_embeddings.projection.{kind}"
        found[f"patch_embed.proj.{kind}"] = state[patches]
        found[f"norm.{kind}"] = state[f"{stem}.layernorm.{kind}"]
        for block in range(2):
            ours, theirs = f"{stem}.layers.{block}", f"blocks.{block}"
            found[f"{theirs}.norm1.{kind}"] = state[f"{ours}.layernorm_before.{kind}"]
            found[f"{theirs}.norm2.{kind}"] = state[f"{ours}.layernorm_after.{kind}"]
            q = state[f"{ours}.attention.q_proj.{kind}"]
            k = state[f"{ours}.attention.k_proj.{kind}"]
            v = state[f"{ours}.attention.v_proj.{kind}"]
            found[f"{theirs}.attn.qkv.{kind}"] = torch.cat([q, k, v])
            found[f"{theirs}.attn.proj.{kind}"] = state[f"{ours}.attention.o_proj.{kind}"]
            found[f"{theirs}.mlp.fc1.{kind}"] = state[f"{ours}.mlp.fc1.{kind}"]
            found[f"{theirs}.mlp.fc2.{kind}"] = state[f"{ours}.mlp.fc2.{kind}"]
        if distilled:
            found[f"head.{kind}"] = state[f"cls_classifier.{kind}"]
            found[f"head_dist.{kind}"] = state[f"distillation_classifier.{kind}"]
        else:
            found[f"head.{kind}"] = state[f"classifier.{kind}"]
    return {key: weight.clone().contiguous() for key, weight in found.items()}


def write_timm(
    folder: Path, state: dict[str, Any], file: str = "model.safetensors", **config: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    plain = {"architecture": "deit_tiny_patch16_224", "num_heads": 3, "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps({**plain, **config}))
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save({"model": state} if file.endswith(".pth") else state, folder / file)
    return folder


def logits(body: nn.Module) -> Tensor:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return body.eval()(pixel_values=images).logits


@pytest.fixture(params=["plain", "distilled"])
def body(request: pytest.FixtureRequest) -> nn.Module:
    return tiny.body() if request.param == "plain" else tiny.distilled_body()


@pytest.fixture
def timm(body: nn.Module) -> dict[str, Tensor]:
    return timm_state(body, hasattr(body, "deit"))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.pth"])
def test_both_layouts_give_the_same_logits_to_the_bit(tmp_path, body, timm, file):
    body.save_pretrained(tmp_path / "transformers")
    write_timm(tmp_path / "timm", timm, file)

    one = deit.load(str(tmp_path / "transformers"), 3)
    other = deit.load(str(tmp_path / "timm"), 3)

    assert torch.equal(logits(one), logits(body))
    assert torch.equal(logits(other), logits(body))
    assert list(one.state_dict()) == list(other.state_dict())


@pytest.mark.parametrize("distilled", [False, True], ids=["plain", "distilled"])
def test_a_384_pixel_checkpoint_is_known_by_its_position_embeddings(tmp_path, distilled):
    make = tiny.distilled_body if distilled else tiny.body
    large = make(image_size=384, patch_size=16)

    loaded = deit.load(str(write_timm(tmp_path / "timm", timm_state(large, distilled))), 3)

    assert loaded.config.image_size == 384
    pixels = torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        assert torch.equal(
            loaded.eval()(pixel_values=pixels).logits, large(pixel_values=pixels).logits
        )
    assert [layer.name for layer in deit.layers(loaded)] == [
        layer.name for layer in deit.layers(make())
    ]


def test_half_precision_weights_are_loaded_in_float32(tmp_path, body, timm):
    halves = {key: weight.half() for key, weight in timm.items()}

    loaded = deit.load(str(write_timm(tmp_path / "timm", halves)), 3)

    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.allclose(logits(loaded), logits(body), atol=0.1)


def test_heads_of_64_channels_are_taken_where_the_config_names_no_number(tmp_path):
    wide = tiny.body(hidden_size=128, num_attention_heads=2, layer_norm_eps=1e-6)
    folder = write_timm(tmp_path / "timm", timm_state(wide, distilled=False))
    (folder / "config.json").write_text("{}")

    assert torch.equal(logits(deit.load(str(folder), 3)), logits(wide))


def refusal(folder: Path | str, classes: int = 3) -> str:
    with pytest.raises(CheckpointError) as caught:
        deit.load(str(folder), classes)
    return str(caught.value)


def test_a_missing_weight_is_named(tmp_path, timm):
    del timm["blocks.1.mlp.fc2.bias"]

    message = refusal(write_timm(tmp_path / "timm", timm))

    assert "1 weights missing" in message
    assert "layers.1.mlp.fc2.bias" in message


@pytest.mark.parametrize("key", ["patch_embed.proj.weight", "pos_embed", "head.weight"])
def test_a_weight_that_tells_the_shape_is_missed_by_its_name(tmp_path, timm, key):
    del timm[key]

    assert key in refusal(write_timm(tmp_path / "timm", timm))


def test_an_unknown_weight_is_named(tmp_path, timm):
    timm["blocks.0.ls1.gamma"] = torch.ones(24)

    message = refusal(write_timm(tmp_path / "timm", timm))

    assert "1 unknown" in message
    assert "ls1.gamma" in message


@pytest.mark.parametrize(
    ("key", "shape"),
    [("blocks.0.norm1.weight", (23,)), ("blocks.1.attn.qkv.weight", (70, 24)), ("norm.bias", (1,))],
)
def test_a_weight_of_the_wrong_shape_is_named_with_both_shapes(tmp_path, timm, key, shape):
    timm[key] = torch.zeros(shape)

    message = refusal(write_timm(tmp_path / "timm", timm))

    assert "has shape" in message
    assert "expected (" in message


def test_another_number_of_classes_is_refused_in_both_layouts(tmp_path, body, timm):
    body.save_pretrained(tmp_path / "transformers")
    write_timm(tmp_path / "timm", timm)

    for layout in ("transformers", "timm"):
        message = refusal(tmp_path / layout, classes=10)
        assert "tells 3 classes apart, the recipe's labels name 10" in message


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file.pth").write_bytes(b"")

    for place in (tmp_path / "absent", tmp_path / "file.pth"):
        assert "expected a folder with config.json and weights at" in refusal(place)


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    assert "expected a config.json" in refusal(tmp_path)

    (tmp_path / "config.json").write_text("{}")
    assert "expected one of model.safetensors" in refusal(tmp_path)


def test_a_config_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")

    assert "config.json" in refusal(tmp_path)


def test_a_file_that_holds_no_weights_by_name_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "model.pth")
    (tmp_path / "config.json").write_text("{}")

    assert "expected weights by name in" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("data", [b"", b"not weights", b"\x80\x02garbage"])
def test_weights_that_cannot_be_read_are_refused_by_their_file(tmp_path, file, data):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(data)

    assert file in refusal(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not weights"])
def test_weights_of_transformers_that_cannot_be_read_are_refused(tmp_path, data):
    tiny.body().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)

    assert "cannot load" in refusal(tmp_path)


def test_weights_that_transformers_misses_are_named(tmp_path):
    body = tiny.body()
    state = body.state_dict()
    body.save_pretrained(tmp_path)
    del state["vit.layers.0.mlp.fc1.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    message = refusal(tmp_path)

    assert "lacks 1 weights" in message
    assert "layers.0.mlp.fc1.weight" in message


def test_weights_of_transformers_with_another_shape_are_refused(tmp_path):
    body = tiny.body()
    body.save_pretrained(tmp_path)
    state = {**body.state_dict(), "vit.layernorm.weight": torch.ones(7)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    assert "vit.layernorm.weight" in refusal(tmp_path)


def test_another_architecture_is_refused_by_its_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))

    assert "is a 'bert'; this family takes model types vit, deit" in refusal(tmp_path)
