import pytest
import torch
from torch import nn

from compress.errors import RecipeError
from compress.networks import deit
from compress.networks.network import Classifier, captured_outputs
from tests.compress import tiny


@pytest.fixture(params=["plain", "distilled"])
def body(request: pytest.FixtureRequest) -> nn.Module:
    return tiny.body() if request.param == "plain" else tiny.distilled_body()


def test_every_linear_and_conv_is_named_exactly_once(body):
    weighted = [
        name for name, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]

    named = [layer.name for layer in deit.layers(body)]

    assert sorted(named) == sorted(weighted)
    assert len(set(named)) == len(named)


def test_each_layer_is_pruned_or_has_a_reason(body):
    for layer in deit.layers(body):
        assert layer.prune != bool(layer.reason)
        assert layer.role


def test_everything_but_the_heads_is_pruned(body):
    dense = {layer.name for layer in deit.layers(body) if not layer.prune}

    distilled = {"cls_classifier", "distillation_classifier"}
    assert dense == (distilled if hasattr(body, "deit") else {"classifier"})


def test_layers_of_one_reads_do_get_the_same_tensor(body):
    seen: dict[str, torch.Tensor] = {}

    def look(name):
        return lambda _module, inputs: seen.__setitem__(name, inputs[0])

    layers = deit.layers(body)
    for layer in layers:
        body.get_submodule(layer.name).register_forward_pre_hook(look(layer.name))
    body(pixel_values=torch.randn(2, 3, 8, 8))

    for one in layers:
        for other in layers:
            if one.reads == other.reads:
                assert seen[one.name] is seen[other.name]
    attention = [layer for layer in layers if layer.role in ("query", "key", "value")]
    assert len({layer.reads for layer in attention}) == len(attention) / 3


def test_layers_come_in_the_order_in_which_they_run(body):
    order = []
    for layer in deit.layers(body):
        module = body.get_submodule(layer.name)
        module.register_forward_pre_hook(lambda _m, _i, name=layer.name: order.append(name))

    body(pixel_values=torch.randn(1, 3, 8, 8))

    assert order == [layer.name for layer in deit.layers(body)]


def test_blocks_are_named_first_to_last_and_give_feature_maps(body):
    names = deit.blocks(body)

    with captured_outputs(body, names) as maps:
        body(pixel_values=torch.randn(2, 3, 8, 8))

    tokens = 16 + (2 if hasattr(body, "deit") else 1)
    assert [name.rpartition(".")[2] for name in names] == ["0", "1"]
    assert all(tuple(maps[name].shape) == (2, tokens, 24) for name in names)
    assert not any(module._forward_hooks for module in body.modules())


def test_an_architecture_with_an_unknown_key_is_refused_by_its_name():
    with pytest.raises(RecipeError, match="hidden_sise"):
        deit.build({**tiny.ARCHITECTURE, "hidden_sise": 48})


@pytest.mark.parametrize(
    "changes", [{"hidden_size": -4}, {"hidden_size": "wide"}, {"hidden_act": "gulu"}]
)
def test_an_architecture_that_cannot_be_built_is_refused(changes):
    with pytest.raises(RecipeError, match="architecture"):
        deit.build({**tiny.ARCHITECTURE, **changes})


def test_normalisation_is_part_of_the_network():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    body = tiny.body()
    images = tiny.pictures(3)

    logits = Classifier(body, mean, std)(images)

    pixels = (images.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    expected = body(pixel_values=pixels.permute(0, 3, 1, 2)).logits
    assert torch.allclose(logits, expected, atol=1e-4)


def test_normalisation_is_no_weight_and_no_state(network):
    assert not any(name.startswith(("scale", "shift")) for name in network.state_dict())


def test_exportable_attention_computes_the_same(network):
    images = tiny.pictures(4)
    before = network(images)

    network.use_exportable_attention()

    assert torch.allclose(network(images), before, atol=1e-4)
