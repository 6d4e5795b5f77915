import json

import pytest
import yaml

from compress import ablate, pipeline
from compress.__main__ import main
from compress.errors import CheckpointError, RecipeError
from compress.recipe_file import changed
from tests.compress import tiny

CONVNEXT = (
    "network.architecture={model_type: convnext, image_size: 32, hidden_sizes: [8, 8, 8, 8], "
    "depths: [1, 1, 1, 1]}"
)

LARGER = "input={height: 32, width: 32, shorter_side_px: 32}"


@pytest.fixture
def folder(tmp_path):
    tiny.write_pictures(tmp_path / "train", each=4)
    tiny.write_pictures(tmp_path / "test", each=4)
    return tmp_path


def test_every_ingredient_differs_from_another_by_name_and_by_change():
    assert len({entry.name for entry in ablate.INGREDIENTS}) == len(ablate.INGREDIENTS)
    assert len({entry.changes for entry in ablate.INGREDIENTS}) == len(ablate.INGREDIENTS)


@pytest.mark.parametrize("ingredient", ablate.INGREDIENTS, ids=lambda entry: entry.name)
def test_every_ingredient_fits_a_plain_recipe_and_changes_only_its_stage(folder, ingredient):
    base = tiny.recipe(folder)

    one = changed(base, ingredient.changes)

    if ingredient.stage == 2:
        parts = {"quantize", "distill"}
        kept = one.model_dump(exclude=parts) == base.model_dump(exclude=parts)
        assert kept
        weights = {"layer_weights"}
        assert one.distill.model_dump(exclude=weights) == base.distill.model_dump(exclude=weights)


def test_the_table_holds_each_line_with_the_scores_of_a_run_of_its_own(folder):
    base = tiny.recipe(folder)
    names = ["no late features", "ranges by the maximum"]

    table = ablate.run(base, seeds=2, only=names)

    assert [row.name for row in table.rows] == [ablate.EVERYTHING, *names]
    assert table.dense.keys() == {"held out"}
    for row in table.rows:
        assert [len(row.sparse["held out"]), len(row.quantized["held out"])] == [2, 2]
    # A stage-2 change shares stage 1; run apart, it ends at the same scores.
    apart = changed(base, ["quantize.observer=max", "run=" + json.dumps(str(folder / "apart"))])
    pipeline.compress(apart)
    report = json.loads((apart.run / "report.json").read_text())
    (row,) = report["accuracy"]
    last = table.rows[-1]
    assert row["sparse"]["top1"] == last.sparse["held out"][0]
    assert row["quantized"]["top1"] == last.quantized["held out"][0]
    assert last.sparse == table.rows[0].sparse


def test_a_finished_ablation_is_read_and_not_trained_again(folder):
    base = tiny.recipe(folder)
    first = ablate.run(base, only=["no soft logits"])
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}

    again = ablate.run(base, only=["no soft logits"])

    assert again == first
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}


def test_a_changed_recipe_is_refused_until_it_is_told_to_begin_anew(folder):
    base = tiny.recipe(folder)
    ablate.run(base, only=[])
    other = changed(base, ["distill.soft=3"])

    with pytest.raises(CheckpointError, match="--restart"):
        ablate.run(other, only=[])

    assert len(ablate.run(other, only=[], restart=True).rows) == 1


def test_what_does_not_change_the_recipe_is_left_out(folder):
    base = tiny.recipe(folder)

    names = [row.name for row in ablate._chosen(base, None, ablate.INGREDIENTS)]

    assert "layer weights inverse" not in names
    assert "masks by magnitude" not in names
    assert {"masks by Wanda", "layer weights direct", "FP8"} <= set(names)


def test_what_does_not_fit_the_recipe_is_shown_or_refused_where_it_is_asked_for(folder):
    base = changed(tiny.recipe(folder), ["prune.pattern=4:8"])

    rows = {row.name: row for row in ablate._chosen(base, None, ablate.INGREDIENTS)}

    assert "permute needs pattern 2:4, got 4:8" in rows["channels permuted first"].unfit
    assert not rows["INT4"].unfit
    with pytest.raises(RecipeError, match="permute needs pattern 2:4"):
        ablate.run(base, only=["channels permuted first"])


@pytest.mark.parametrize(
    ("now", "other"),
    [("true", "head trained"), ("false", "head frozen")],
    ids=["frozen", "trained"],
)
def test_the_head_is_tried_the_other_way(folder, now, other):
    base = changed(tiny.recipe(folder), [f"distill.freeze_head={now}"])

    names = {row.name for row in ablate._chosen(base, None, ablate.INGREDIENTS)}

    assert names & {"head trained", "head frozen"} == {other}


def test_a_change_that_the_network_cannot_take_is_a_line_of_its_own_and_the_rest_goes_on(folder):
    base = changed(
        tiny.recipe(folder), ["network.family=auto", CONVNEXT, LARGER, "distill.feature=0"]
    )
    of_name = {entry.name: entry for entry in ablate.INGREDIENTS}
    names = ["channels permuted first", "attention products rounded", "ranges by the maximum"]
    some = [of_name[name] for name in names]

    table = ablate.run(base, ingredients=some)

    reasons = {row.name: row.unfit for row in table.rows}
    assert list(reasons) == [ablate.EVERYTHING, *names]
    assert "no layers whose channels are known" in reasons[names[0]]
    assert "does not have" in reasons[names[1]]
    assert reasons[names[2]] == ""
    assert table.rows[-1].quantized["held out"]
    (line,) = [line for line in table.text().splitlines() if line.startswith(f"{names[0]}  ")]
    assert line.endswith(f"does not fit: {reasons[names[0]]}")
    assert json.loads(table.json())["rows"][1]["unfit"] == reasons[names[0]]
    with pytest.raises(RecipeError, match="no layers whose channels"):
        ablate.run(base, only=names, restart=True)


def test_the_columns_of_the_table_stand_below_each_other_however_long_a_name(folder):
    scores = {"held out": [0.5]}
    names = [ablate.EVERYTHING, max((e.name for e in ablate.INGREDIENTS), key=len), "x" * 60]
    rows = [ablate.Row(name, (), 1, scores, scores) for name in names]

    lines = ablate.Table("tiny", scores, rows).text().splitlines()[1:]

    assert {line.index("50.0") for line in lines[1:]} == {lines[0].index("sparse") + 2}


def test_an_unknown_ingredient_is_refused_with_where_to_look(folder):
    with pytest.raises(RecipeError, match=r"no ingredient is called salt; .* --list"):
        ablate.run(tiny.recipe(folder), only=["salt"])


def test_the_command_prints_the_table_and_writes_every_score(folder, capsys, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.plain_recipe(folder)))
    out = tmp_path / "table.json"

    assert main(["ablate", str(path), "--only", "masks by Wanda", "--json", str(out)]) == 0

    shown = capsys.readouterr().out
    assert "masks by Wanda" in shown
    assert "tiny, 1 seed, held out: top-1 in percent, dense" in shown
    assert [row["name"] for row in json.loads(out.read_text())["rows"]][1] == "masks by Wanda"


def test_the_list_names_every_ingredient_with_its_change(folder, capsys):
    assert main(["ablate", "any.yaml", "--list"]) == 0

    shown = capsys.readouterr().out
    for entry in ablate.INGREDIENTS:
        assert entry.name in shown
