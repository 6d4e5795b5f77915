"""The card survives every way it travels, and says what is wrong with one that did not."""

import copy
import dataclasses
import json

import pytest

from contract import labels
from contract.card import PARAMETER, Accuracy, ModelCard, Precision
from contract.errors import CardError
from contract.preprocess import Preprocessing

CARD = ModelCard(
    task="classify",
    labels=labels.inline(["Äpfel", "日本", 'quoted "pears"']),
    preprocessing=Preprocessing(224, 192, 256, "bilinear"),
    precision=Precision("int8", "int8", "2:4"),
    accuracy=(
        Accuracy("imagenette, 500 photos", 500, 0.706, 0.7, 0.69),
        Accuracy("never sparse", 1, 1.0, None, 0, "mean_iou"),
    ),
    provenance={"teacher": "deit-tiny", "licence": "Apache-2.0"},
    description="A line\nand another.",
)
PLAIN = json.loads(CARD.to_json())


def changed(path: str, value: object) -> str:
    """Return the card as JSON with one field set; ``...`` removes it."""
    plain = copy.deepcopy(PLAIN)
    *parents, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    target = plain
    for step in parents:
        target = target[step]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return json.dumps(plain)


def test_a_card_survives_its_file():
    assert ModelCard.from_json(CARD.to_json()) == CARD


def test_a_card_survives_the_parameters_of_a_configuration():
    assert ModelCard.from_parameters(CARD.to_parameters()) == CARD


def test_the_same_card_always_gives_the_same_text():
    again = ModelCard.from_json(CARD.to_json())

    assert again.to_json() == CARD.to_json()
    assert again.to_parameters() == CARD.to_parameters()


def test_a_known_label_set_travels_by_name_only():
    card = dataclasses.replace(CARD, labels=labels.load("imagenet-1k"))

    assert json.loads(card.to_json())["labels"] == {"set": "imagenet-1k"}
    assert ModelCard.from_json(card.to_json()).labels.names[0] == "tench, Tinca tinca"


def test_fields_with_a_default_may_be_left_out():
    later = ("preprocessing.framing", "accuracy.0.metric")
    for path in ("accuracy", "provenance", "description", "scores", *later):
        ModelCard.from_json(changed(path, ...))


@pytest.mark.parametrize("version", [0, 2, "1", None, ...])
def test_a_card_from_another_version_is_refused(version):
    with pytest.raises(CardError, match=r"this release reads 1\. Export the model again"):
        ModelCard.from_json(changed("card_version", version))


@pytest.mark.parametrize(
    "path",
    ["task", "labels", "preprocessing", "precision", "preprocessing.height", "accuracy.0.data"],
)
def test_a_missing_field_is_named(path):
    with pytest.raises(CardError, match=f"lacks: {path.rpartition('.')[2]}"):
        ModelCard.from_json(changed(path, ...))


@pytest.mark.parametrize("path", ["colour", "preprocessing.mean", "accuracy.1.top5"])
def test_an_unknown_field_is_named(path):
    with pytest.raises(CardError, match=f"unknown fields: {path.rpartition('.')[2]}"):
        ModelCard.from_json(changed(path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("task", 5, "card.task must be text, got 5"),
        ("task", "paint", "task must be one of classify, detect, segment, got 'paint'"),
        ("scores", "logit", "scores must be one of probability"),
        ("description", None, "card.description must be text, got None"),
        (
            "preprocessing.height",
            True,
            "card.preprocessing.height must be a whole number, got True",
        ),
        ("preprocessing.height", 224.0, "height must be a whole number"),
        ("preprocessing.height", "224", "height must be a whole number"),
        ("preprocessing.height", 0, "expected 1 <= height"),
        ("preprocessing.interpolation", "nearest", "one of bicubic, bilinear, lanczos"),
        ("preprocessing", [], "card.preprocessing must be an object, got list"),
        (
            "precision.weights",
            "int3",
            "precision.weights must be one of float32, int8, int4, fp8, got 'int3'",
        ),
        ("precision.sparsity", "3:4", "precision.sparsity must be one of dense, 2:4"),
        ("accuracy", 0.7, "card.accuracy must be a list, got 0.7"),
        ("accuracy", {"a": 1}, "card.accuracy must be a list"),
        ("accuracy.0", 0.7, r"card.accuracy\[0\] must be an object"),
        ("accuracy.1.quantized", 69.0, "accuracy.quantized is a fraction from 0 to 1, got 69.0"),
        ("accuracy.1.sparse", "high", r"accuracy\[1\].sparse must be a number or null"),
        ("accuracy.0.teacher", None, "teacher must be a number, got None"),
        ("accuracy.0.teacher", float("nan"), "accuracy.teacher is a fraction"),
        ("accuracy.0.metric", "top5", "metric must be one of top1, mean_iou, pixel_accuracy, box_"),
        ("preprocessing.framing", "pad", "framing must be one of crop, letterbox, got 'pad'"),
        ("accuracy.0.images", 0, "at least one picture, got images = 0"),
        ("provenance", ["a"], "card.provenance must be an object of texts"),
        ("provenance", {"year": 2026}, "card.provenance must be an object of texts"),
        ("labels", "imagenet-1k", "labels must be"),
        ("labels", {"names": ["a", 1]}, "labels must be"),
        ("labels", {"set": "imagenet-1k", "names": ["a"]}, "labels must be"),
        ("labels", {"set": "../card"}, "unknown label set '../card'; known sets: ade20k, "),
        ("labels", {"names": []}, "at least one name"),
    ],
)
def test_a_wrong_value_is_refused_and_named(path, value, message):
    with pytest.raises(CardError, match=message):
        ModelCard.from_json(changed(path, value))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\0"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(CardError, match=r"not JSON|has version None"):
        ModelCard.from_json(text)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"card"'])
def test_what_is_not_an_object_is_refused(text):
    with pytest.raises(CardError, match="must be a JSON object"):
        ModelCard.from_json(text)


def test_a_configuration_without_a_card_says_how_to_get_one():
    with pytest.raises(CardError, match=f"no parameter '{PARAMETER}'"):
        ModelCard.from_parameters({"other": "1"})


def test_a_class_map_has_no_room_for_more_than_255_classes():
    names = labels.inline([f"class {index}" for index in range(256)])

    with pytest.raises(CardError, match="at most 255 classes apart, the card has 256 labels"):
        dataclasses.replace(CARD, task="segment", labels=names)
