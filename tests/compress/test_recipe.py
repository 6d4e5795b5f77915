import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from compress import recipe_file
from compress.errors import RecipeError
from compress.networks import FAMILIES
from compress.recipe import Network, Recipe
from tests.compress import tiny

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def write(folder: Path, plain: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return path


def refusal(folder: Path, plain: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe_file.load(write(folder, plain))
    return str(caught.value)


def test_there_are_recipes_to_load():
    assert "digits" in {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_loads(path):
    assert recipe_file.load(path).name


def test_a_complete_recipe_loads_and_is_frozen(tmp_path):
    loaded = recipe_file.load(write(tmp_path, tiny.plain_recipe(tmp_path)))

    assert loaded.prune.pattern == "2:4"
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 1


@pytest.mark.parametrize(
    "path", ["sed", "network.famly", "quantize.schedule.epoch", "data.augment.flipp"]
)
def test_an_unknown_key_is_refused_by_its_name(tmp_path, path):
    message = refusal(tmp_path, tiny.changed(tiny.plain_recipe(tmp_path), path, 1))

    assert path in message
    assert re.search(r"unknown key '\w+'; did you mean '\w+'\?", message)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("network.checkpoint", "somewhere", "either checkpoint or architecture, not both"),
        ("network.architecture", {}, "not both and not neither"),
        ("data.augment.mix", 0.5, "augment.mix needs labelled: false"),
        ("data.labelled", False, "a teacher trained from scratch needs labelled: true"),
        ("teacher", None, "an architecture needs a teacher schedule"),
        ("quantize.activations", "int4", "weights int8 need activations int8, got int4"),
        ("quantize.weights", "fp8", "weights fp8 need activations fp8, got int8"),
        ("quantize.block_size", 64, "block_size needs weights int4 and activations float32"),
        (
            "quantize",
            {
                "schedule": None,
                "weights": "int4",
                "activations": "float32",
                "placement": "gemm+add",
            },
            "placement gemm+add has nothing to round in float32",
        ),
    ],
)
def test_a_contradiction_is_refused_with_a_sentence(tmp_path, path, value, sentence):
    assert sentence in refusal(tmp_path, tiny.changed(tiny.plain_recipe(tmp_path), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "../elsewhere"),
        ("seed", -1),
        ("input", {"height": 8, "width": 8, "shorter_side_px": 4}),
        ("data.evaluate", {}),
        ("data.augment", {"crop_scale": [0.9, 0.5]}),
        ("data.augment", {"crop_scale": [0.0, 1.0]}),
        ("prune.pattern", "1:4"),
        ("quantize.percentile", 50),
        ("quantize.weights", "int2"),
        ("quantize.placement", "everywhere"),
        ("teacher.epochs", 0),
    ],
)
def test_a_value_that_cannot_work_is_refused_where_it_stands(tmp_path, path, value):
    assert path in refusal(tmp_path, tiny.changed(tiny.plain_recipe(tmp_path), path, value))


MIXED = "cannot learn from blended pictures, leave data.augment.mix out"
DIGITS = "has no source digits, set data.source: folder"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"augment": {"mix": 0.5}}, MIXED),
        ({"source": "digits"}, DIGITS),
        ({"augment": {"mix": 0.5}, "source": "digits"}, f"{MIXED} and {DIGITS}"),
    ],
)
def test_what_only_classification_takes_is_named_alone(tmp_path, data, said):
    plain = tiny.changed(tiny.plain_recipe(tmp_path), "network.family", "upernet")
    plain["data"] = {**plain["data"], **data}

    message = refusal(tmp_path, {**plain, "task": "segment"})

    assert message.endswith(f"recipe: task: segment {said}")


def test_every_fault_is_named_at_once(tmp_path):
    plain = tiny.changed(tiny.plain_recipe(tmp_path), "threads", 0)
    message = refusal(tmp_path, tiny.changed(plain, "teacher.learning_rate", -1))

    assert "threads" in message
    assert "teacher.learning_rate" in message


def test_a_missing_file_is_refused_by_its_path(tmp_path):
    with pytest.raises(RecipeError, match=r"absent\.yaml.*No such file"):
        recipe_file.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("data", [b"name: [", b"\xff\xfe\x00", b"a: b: c"])
def test_what_is_not_yaml_is_refused(tmp_path, data):
    path = tmp_path / "broken.yaml"
    path.write_bytes(data)

    with pytest.raises(RecipeError, match="is not YAML"):
        recipe_file.load(path)


@pytest.mark.parametrize("plain", [None, ["a", "list"], "a word"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path, plain):
    assert "recipe:" in refusal(tmp_path, plain)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run", "elsewhere"),
        ("publish.repository", "elsewhere"),
        ("publish.max_batch_size", 2),
        ("description", "other words"),
        ("licence", "MIT"),
        ("checkpoint_every_s", 1.5),
    ],
)
def test_the_digest_ignores_where_results_go(tmp_path, path, value):
    plain = tiny.plain_recipe(tmp_path)
    before = Recipe.model_validate(plain)
    after = Recipe.model_validate(tiny.changed(plain, path, value))

    assert after != before
    assert after.digest() == before.digest()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("threads", 2),
        ("network.std", [0.4, 0.5, 0.5]),
        ("network.architecture.hidden_size", 48),
        ("data.train", "elsewhere"),
        ("data.augment.flip", True),
        ("teacher.epochs", 3),
        ("distill.temperature", 2.0),
        ("prune.criterion", "reconstruct"),
        ("quantize.percentile", 99.0),
        ("quantize.learned_scales", False),
    ],
)
def test_the_digest_tells_apart_what_decides_the_result(tmp_path, path, value):
    plain = tiny.plain_recipe(tmp_path)

    changed = Recipe.model_validate(tiny.changed(plain, path, value))

    assert changed.digest() != Recipe.model_validate(plain).digest()


@pytest.mark.parametrize("stage", ["prune", "quantize"])
@pytest.mark.parametrize(
    ("distill", "decides"),
    [({}, True), ({"agree_only": False}, False), ({"feature": 0}, False)],
)
def test_pieces_decide_the_result_only_where_each_has_its_own_agreeing_samples(
    tmp_path, stage, distill, decides
):
    plain = tiny.changed(tiny.plain_recipe(tmp_path), "distill", distill)
    divided = tiny.changed(plain, f"{stage}.schedule.micro_batch", 2)

    digests = {Recipe.model_validate(recipe).digest() for recipe in (plain, divided)}

    assert len(digests) == 1 + decides


def test_single_lines_can_be_changed_in_order(tmp_path):
    path = write(tmp_path, tiny.plain_recipe(tmp_path))

    loaded = recipe_file.load(
        path, ["prune.criterion=reconstruct", "distill.soft=3", "distill.soft=4.5", "seed=7"]
    )

    assert loaded == tiny.recipe(
        tmp_path, prune__criterion="reconstruct", distill__soft=4.5, seed=7
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("prune.criterion", "expected KEY=VALUE"),
        ("name.first=x", "the recipe has no section 'name'"),
        ("seed=[", "'seed=\\[' is not a YAML value"),
        (
            "prune.kriterion=magnitude",
            "unknown key 'kriterion'; did you mean 'criterion'",
        ),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(tmp_path, change, sentence):
    path = write(tmp_path, tiny.plain_recipe(tmp_path))

    with pytest.raises(RecipeError, match=sentence):
        recipe_file.load(path, [change])


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_a_pattern_needs_no_quotes_in_yaml(tmp_path, pattern):
    plain = tiny.plain_recipe(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain))

    assert recipe_file.load(path, [f"prune.pattern={pattern}"]).prune.pattern == pattern


def test_a_recipe_knows_every_family_and_what_its_networks_answer(tmp_path):
    answers = {"classify": ("scores",), "segment": ("class_map",)}
    boxes = ("scores", "labels", "boxes")
    plain = tiny.plain_recipe(tmp_path)

    assert set(get_args(Network.model_fields["family"].annotation)) == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert family.wrap.outputs[:3] == answers.get(family.task, boxes), name
        if family.task != "classify":
            said = refusal(tmp_path, tiny.changed(plain, "network.family", name))
            assert f"family {name} needs task: {family.task}, got classify" in said
