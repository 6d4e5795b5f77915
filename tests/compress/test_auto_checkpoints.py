"""Family auto: checkpoints that it loads, and those that it refuses."""

import json

import pytest
import torch
from safetensors.torch import save_file

from compress.errors import CheckpointError
from compress.networks import auto
from tests.compress.test_auto import built


def test_a_checkpoint_computes_the_same_when_it_is_loaded(tmp_path):
    body = built("segformer")
    body.save_pretrained(tmp_path)

    loaded = auto.load(str(tmp_path), 3)

    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(
            loaded.eval()(pixel_values=pixels).logits, body(pixel_values=pixels).logits
        )


@pytest.mark.parametrize("kind", ["deit", "vit"])
def test_a_checkpoint_that_names_no_class_is_loaded(tmp_path, kind):
    built(kind).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))

    assert auto.layers(auto.load(str(tmp_path), 3))


def refusal(checkpoint: object, classes: int = 3) -> str:
    with pytest.raises(CheckpointError) as caught:
        auto.load(str(checkpoint), classes)
    return str(caught.value)


def test_another_number_of_classes_is_refused(tmp_path):
    built("vit").save_pretrained(tmp_path)

    assert "tells 3 classes apart, the recipe's labels name 4" in refusal(tmp_path, classes=4)


def test_a_folder_in_another_layout_is_sent_to_the_families_that_read_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "deit_tiny"}))
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")

    message = refusal(tmp_path)

    assert "expected a model_type" in message
    assert "Take network.family deit or swin" in message


def test_a_network_that_classifies_no_pictures_is_refused_by_its_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))

    assert "is a 'bert'" in refusal(tmp_path)
