"""What a folder name, a synset id or a user's word means in a label set."""

import hashlib

import pytest

from contract import labels
from contract.errors import CardError
from contract.labels import LabelSet

IMAGENET = labels.load("imagenet-1k")


def test_imagenet_has_its_thousand_classes_in_the_order_of_the_synsets():
    assert len(IMAGENET) == 1000
    assert list(IMAGENET.ids) == sorted(set(IMAGENET.ids))
    assert (IMAGENET.ids[217], IMAGENET.names[217]) == (
        "n02102040",
        "English springer, English springer spaniel",
    )


def test_coco_has_its_eighty_classes_by_the_ids_of_its_annotations():
    coco = labels.load("coco")

    assert len(coco) == len(set(coco.names)) == 80
    assert list(map(int, coco.ids)) == sorted(set(map(int, coco.ids)))
    for index, category, name in (
        (0, "1", "person"),
        (11, "13", "stop sign"),
        (79, "90", "toothbrush"),
    ):
        assert (coco.ids[index], coco.names[index]) == (category, name)
        assert coco.index(name) == coco.index(category) == index


def test_ade20k_has_its_hundred_and_fifty_classes_by_the_values_of_its_annotations():
    ade20k = labels.load("ade20k")

    assert ade20k.ids == tuple(map(str, range(1, 151)))
    assert len(set(ade20k.names)) == 150
    for index, name in ((0, "wall"), (12, "person"), (44, "chest of drawers"), (149, "flag")):
        assert ade20k.index(name) == index


def test_ade20k_has_every_name_of_the_official_list():
    # Of objectInfo150.txt, what stands before the first comma of each name, one a line.
    official = "ffd47f2fcbad6c484a3e320702ff1278dae14e78d443d81987142210b70c5032"
    names = labels.load("ade20k").names

    assert names[135:] == (
        "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor",
        "bulletin board", "shower", "radiator", "glass", "clock", "flag",
    )  # fmt: skip
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == official


@pytest.mark.parametrize("index", range(0, 1000, 37))
def test_every_id_and_whole_name_means_its_class(index):
    assert IMAGENET.index(IMAGENET.ids[index]) == index
    assert IMAGENET.index(IMAGENET.names[index]) == index


@pytest.mark.parametrize(
    "word", ["tench", "Tinca tinca", "TINCA_TINCA", " tench ", "tinca   tinca", "N01440764"]
)
def test_synonyms_count_whatever_their_case_and_blanks(word):
    assert IMAGENET.index(word) == 0


@pytest.mark.parametrize("word", ["partridge", "cardigan", "Harp", "maillot", "missile"])
def test_a_whole_name_comes_before_the_same_word_as_a_synonym(word):
    assert IMAGENET.names[IMAGENET.index(word)] == word.lower()


def test_every_class_is_found_by_its_id_and_by_its_name_unless_another_has_the_same_name():
    for index, (synset, name) in enumerate(zip(IMAGENET.ids, IMAGENET.names, strict=True)):
        assert IMAGENET.index(synset) == index
        assert IMAGENET.index(name) == (None if name == "crane" else index)


def test_names_that_differ_only_in_case_are_told_apart():
    letters = labels.inline(["a", "A"])

    assert (letters.index("a"), letters.index("A")) == (0, 1)


@pytest.mark.parametrize("word", ["crane", "Crane"])
def test_a_word_that_two_classes_share_means_neither(word):
    assert IMAGENET.index(word) is None


def test_of_two_classes_with_one_name_each_has_its_id():
    cranes = [index for index, name in enumerate(IMAGENET.names) if name == "crane"]

    assert [IMAGENET.index(IMAGENET.ids[index]) for index in cranes] == cranes
    assert len(cranes) == 2


@pytest.mark.parametrize("word", ["", "no such thing", "tench,", "0"])
def test_an_unknown_word_means_nothing(word):
    assert IMAGENET.index(word) is None


def test_inline_labels_are_their_own_ids():
    digits = labels.inline(["zero", "one"])

    assert (digits.ids, len(digits), digits.index("ONE")) == (("zero", "one"), 2, 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"at least one name .* got \[\]\. Name each class\."),
        (["a", " "], "no empty one"),
        (["b", "a", "b", "a"], r"more often come a, b\. Leave out what is repeated, or tell"),
    ],
)
def test_inline_labels_that_are_empty_or_repeated_are_refused(names, message):
    with pytest.raises(CardError, match=message):
        labels.inline(names)


def test_an_unknown_set_is_refused_and_the_known_ones_are_named():
    with pytest.raises(CardError, match="known sets: ade20k, coco, imagenet-1k"):
        labels.load("imagenet-22k")


def test_a_set_with_more_ids_than_names_is_refused():
    with pytest.raises(CardError, match="got 2 ids and 1 names"):
        LabelSet("odd", ("a", "b"), ("a",))
