import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import beside_modelopt
from benchmarks.beside_modelopt import Side, Table, broken_groups, with_steps
from benchmarks.by_modelopt import schedules, steps
from compress.errors import RecipeError
from compress.tasks.classify import Classification
from tests.compress import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    tiny.write_pictures(tmp_path / "train", each=4)
    tiny.write_pictures(tmp_path / "test", each=4)
    return tmp_path


@pytest.mark.parametrize("absent", ["modelopt", "requests"])
def test_where_modelopt_is_absent_one_line_says_how_to_install_it(
    folder, monkeypatch, capsys, absent
):
    monkeypatch.setitem(sys.modules, absent, None)
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny.plain_recipe(folder)), encoding="utf-8")

    assert beside_modelopt.main([str(recipe)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert absent in line
    assert "pip install 'gpusq-vit[compress,modelopt]'" in line
    assert not list(folder.glob("run*"))


@pytest.mark.parametrize(
    ("change", "value", "complaint"),
    [
        ("prune.pattern", "4:8", "got 4:8 int8/int8"),
        ("quantize.weights", "int4", "got 2:4 int4/int8"),
        ("prune.schedule", None, "equal steps"),
        ("quantize.schedule", None, "equal steps"),
        ("quantize.schedule.weight_decay", 0.1, "weight_decay: 0"),
    ],
)
def test_a_recipe_that_modelopt_cannot_follow_is_refused(folder, change, value, complaint):
    recipe = tiny.recipe(folder, **{change: value})

    with pytest.raises(RecipeError, match=complaint):
        schedules(recipe)


@pytest.mark.parametrize("wanted", [(1, 1), (7, 3), (70, 35), (1000, 999)])
def test_a_number_of_steps_is_met_exactly(folder, wanted):
    recipe = with_steps(tiny.recipe(folder), *wanted)

    assert steps(recipe, Classification(recipe)) == wanted


def test_groups_with_more_than_two_weights_are_counted_over_all_layers():
    kept = torch.tensor([[1.0, 0, 2, 0, 0, 0, 0, 3]])
    broken = torch.tensor([[1.0, 2, 3, 0], [1, 2, 0, 0]])

    assert broken_groups([kept]) == 0
    assert broken_groups([kept, broken]) == 0.25


def side(quantized, **changes):
    values = {
        "sparse": {"held out": 0.5},
        "quantized": {"held out": quantized},
        "steps": 10,
        "training_s": 2.0,
        "whole_s": 5.0,
        "processor_s": 4.0,
        "pruned": 3,
        "broken": 0.0,
    }
    return Side(**{**values, **changes})


def test_the_table_shows_medians_and_how_far_each_is_from_this_project():
    ours = [side(0.6), side(0.9), side(0.7)]
    theirs = [side(0.4, sparse={}), side(0.5, sparse={}), side(0.8, sparse={}, broken=0.125)]
    table = Table("tiny", {"held out": [1.0, 0.8, 0.9]}, {"this project": ours, "other": theirs})

    shown = [" ".join(line.split()) for line in table.text().splitlines()]

    assert shown[2] == "held out: top-1 in percent, dense 90.0"
    assert shown[4] == "this project 50.0 70.0 60.0 to 90.0"
    assert shown[5] == "other 50.0 -20.0 40.0 to 80.0"
    assert shown[-1] == "other 10 0.200 2.0 5.0 4.0 3 12.50%"
    assert json.loads(table.json())["sides"]["other"][2]["broken"] == 0.125


def compared(recipe, *names):
    """Run the script; its modules stay out of this process, whose torch ModelOpt would change."""
    found = recipe.with_suffix(".json")
    script = [sys.executable, "-m", "benchmarks.beside_modelopt", str(recipe)]
    options = ["--steps", "3", "2", "--json", str(found), "--only", *names]
    subprocess.run([*script, *options], cwd=ROOT, check=True, capture_output=True)
    return json.loads(found.read_text(encoding="utf-8"))


def test_both_sides_start_from_one_dense_network_and_do_the_same_steps(folder):
    pytest.importorskip("modelopt")
    plain = tiny.plain_recipe(folder)
    # Sizes whose head ModelOpt's rules let it prune.
    plain["network"]["architecture"] = {**tiny.ARCHITECTURE, "hidden_size": 48}
    plain["data"]["labels"] = [*tiny.CLASSES, "white"]
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(plain), encoding="utf-8")
    names = ("quantised before any step", "masks by SparseGPT", "and twice the steps")

    table = compared(recipe, *names)

    sides = {name: side for name, (side,) in table["sides"].items()}
    assert sides.keys() == {"this project", *names}
    assert [side["steps"] for side in sides.values()] == [5, 5, 5, 10]
    assert [side["broken"] for side in sides.values()] == [0, 0, 0, 0]
    assert sides["quantised before any step"]["sparse"] == {}
    assert sides["masks by SparseGPT"]["sparse"].keys() == {"held out"}
    # All Linears of two blocks and the head; the last contender leaves the head as it is.
    assert sides["masks by SparseGPT"]["pruned"] == 13
    assert sides["and twice the steps"]["pruned"] == 12
    assert compared(recipe, *names) == table
