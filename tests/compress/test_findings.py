import base64
import copy
import io
import math

import pytest
import torch
from PIL import Image
from torch import nn

from compress.calibrate import calibrate
from compress.data.folder import ImageFolder
from compress.data.loading import ordered_batches
from compress.findings import compare, layer_noise
from compress.quantize import insert_quantizers, switch_on
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import tiny

LABELS = labels.inline(list(tiny.CLASSES))


class Channel(nn.Module):
    """Says which of three channels is brightest, after turning them by some places."""

    def __init__(self, turned: int = 0) -> None:
        super().__init__()
        self.turned = turned
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.gain * images.float().mean(dim=(1, 2)).roll(self.turned, dims=-1)


@pytest.fixture
def images(tmp_path):
    root = tiny.write_pictures(tmp_path / "test", each=4)
    return ImageFolder(root, LABELS, Preprocessing(8, 8, 8))


def test_networks_that_agree_have_no_example(images):
    found = compare(Channel(), Channel(), images, LABELS.names)

    assert (found.both, found.teacher_only, found.student_only, found.neither) == (12, 0, 0, 0)
    assert found.examples == []


def test_each_picture_is_counted_once_and_examples_say_who_was_right(images):
    found = compare(Channel(), Channel(1), images, LABELS.names, examples=5)

    assert (found.both, found.teacher_only, found.student_only, found.neither) == (0, 12, 0, 0)
    assert len(found.examples) == 5
    for entry in found.examples:
        assert entry.label == entry.teacher.label != entry.student.label
        assert (entry.teacher.right, entry.student.right) == (True, False)
        assert 0 < entry.student.score <= 1


def test_an_example_holds_the_picture_as_the_network_saw_it(images):
    found = compare(Channel(1), Channel(), images, LABELS.names, examples=1)

    kind, data = found.examples[0].picture.split(",")
    assert kind == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    (batch,) = ordered_batches(images, 64)
    assert torch.equal(torch.tensor(list(shown.tobytes())), batch.images[0].flatten().long())


def test_a_network_that_is_not_rounded_has_no_noise(network):
    layers = tiny.layers(network)

    found = layer_noise(network, copy.deepcopy(network), layers, tiny.pictures(4))

    assert set(found.values()) == {math.inf}


def test_noise_grows_as_scales_do(network):
    layers = tiny.layers(network)
    images = tiny.pictures(8)
    heard = []
    for factor in (1, 8):
        rounded = copy.deepcopy(network)
        insert_quantizers(rounded, {layer.name: layer.reads for layer in layers}, learned=False)
        calibrate(rounded, [images], observer="max")
        switch_on(rounded)
        with torch.no_grad():
            for name, parameter in rounded.named_parameters():
                if name.endswith("log_scale"):
                    parameter.add_(math.log(factor))
        heard.append(layer_noise(network, rounded, layers, images))

    assert all(15 < value < 80 for value in heard[0].values())
    assert sum(heard[1].values()) < sum(heard[0].values()) - 10 * len(layers)
