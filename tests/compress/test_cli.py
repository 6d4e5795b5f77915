import dataclasses
import json
import logging
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from compress import bundles
from compress.__main__ import _parser, main
from compress.errors import PlanError
from compress.plan import repository
from contract import labels
from contract.card import ModelCard, Precision
from contract.errors import CardError
from contract.preprocess import Preprocessing
from tests.compress import tiny

COMMANDS = ["compress", "evaluate", "publish", "bench"]
CARD = ModelCard(
    "classify",
    labels.inline(list(tiny.CLASSES)),
    Preprocessing(8, 8, 8),
    Precision("float32", "float32", "dense"),
)


@pytest.fixture
def bundle(tmp_path):
    """A graph that names the brightest channel, which is the class of tiny's pictures."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["scores"], axis=-1),
    ]
    body = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    folder = tmp_path / "bundle"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "card.json").write_text(CARD.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path):
    root = tiny.write_pictures(tmp_path / "pictures", each=3)
    # One picture of red among the blue ones, and one that cannot be read.
    (root / "red" / "00.png").rename(root / "blue" / "red.png")
    (root / "green" / "00.png").write_bytes(b"no picture")
    return root


def one_line(capsys) -> str:
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("gpusq: ")]
    assert said.strip().splitlines()[-1:] == lines
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("form", ["bundle", "repository"])
def test_evaluate_writes_what_scripts_rely_on(bundle, pictures, tmp_path, form, capsys):
    model = bundle
    if form == "repository":
        repository.publish(bundle, tmp_path / "models", "brightest", max_batch_size=4)
        model = tmp_path / "models" / "brightest"
    report = tmp_path / "out.json"

    status = main(["evaluate", str(model), "--data", str(pictures), "--json", str(report)])

    assert status == 0
    damaged = str(pictures / "green" / "00.png")
    found = json.loads(report.read_text())
    assert set(found) == {"top1", "top5", "images", "skipped", "runtime"}
    assert (found["top1"], found["top5"], found["images"]) == (7 / 8, 1.0, 8)
    assert list(found["skipped"]) == [damaged]
    said = capsys.readouterr().out
    assert "top-1 0.8750   top-5 1.0000   images 8" in said
    assert found["runtime"].startswith(f"ONNX Runtime {onnxruntime.__version__}")
    assert f"by {found['runtime']}" in said
    assert f"skipped {damaged}: " in said


def test_evaluate_takes_any_subset_of_the_classes_by_name(bundle, pictures, tmp_path):
    for name in ("green", "blue"):
        for path in (pictures / name).iterdir():
            path.unlink()
        (pictures / name).rmdir()
    (pictures / "red").rename(pictures / "RED")
    report = tmp_path / "out.json"

    assert main(["evaluate", str(bundle), "--data", str(pictures), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["images"] == 2


def test_evaluate_refuses_a_folder_that_names_no_class_in_one_line(bundle, pictures, capsys):
    (pictures / "yelow").mkdir()

    assert main(["evaluate", str(bundle), "--data", str(pictures)]) == 2
    assert "yelow" in one_line(capsys)


def test_evaluate_refuses_what_is_no_model_in_one_line(tmp_path, pictures, capsys):
    assert main(["evaluate", str(tmp_path), "--data", str(pictures)]) == 2
    assert "expected a bundle (card.json) or a model's folder" in one_line(capsys)


def test_evaluate_refuses_a_damaged_graph_in_one_line(bundle, pictures, capsys):
    (bundle / "model.onnx").write_bytes(b"no graph")

    assert main(["evaluate", str(bundle), "--data", str(pictures)]) == 2
    assert "model.onnx" in one_line(capsys)


def test_evaluate_refuses_a_card_of_another_number_of_classes(bundle, pictures, capsys):
    plain = json.loads((bundle / "card.json").read_text())
    plain["labels"]["names"].append("yellow")
    (bundle / "card.json").write_text(json.dumps(plain))

    assert main(["evaluate", str(bundle), "--data", str(pictures)]) == 2
    assert "4" in one_line(capsys)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: [", "is not YAML"),
        ("name: x\nsed: 1\n", "sed: unknown key 'sed'; did you mean 'seed'?"),
        (
            "prune: {critrion: x}",
            "prune.critrion: unknown key 'critrion'; did you mean 'criterion'?",
        ),
        (
            "prune: {schedule: {learning_rat: 1}}",
            "prune.schedule.learning_rat: unknown key 'learning_rat'; did you mean 'learning_rate'",
        ),
        ("name: x\nzzz: 1\n", "zzz: unknown key 'zzz'"),
    ],
)
def test_compress_refuses_a_bad_recipe_in_one_line(tmp_path, capsys, text, sentence):
    path = tmp_path / "bad.yaml"
    path.write_text(text)

    assert main(["compress", str(path)]) == 2
    assert sentence in one_line(capsys)


def test_compress_refuses_missing_pictures_in_one_line(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny.plain_recipe(tmp_path)))

    assert main(["compress", str(path)]) == 2
    assert "expected a folder of pictures at" in one_line(capsys)


def test_compress_changes_single_lines(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny.plain_recipe(tmp_path)))

    assert main(["compress", str(path), "--set", "data.train=elsewhere"]) == 2
    assert "elsewhere" in one_line(capsys)
    assert main(["compress", str(path), "--set", "nonsense"]) == 2
    assert "expected KEY=VALUE" in one_line(capsys)


def test_publish_names_the_model_after_the_run_unless_told(bundle, tmp_path, capsys):
    models, run = tmp_path / "models", bundle.parent.name

    assert main(["publish", str(bundle), "--repository", str(models)]) == 0
    assert main(["publish", str(bundle), "--repository", str(models), "--name", "other"]) == 0

    said = capsys.readouterr().out.split()
    assert said == [str(models / run / "1"), str(models / "other" / "1")]
    assert all((models / name / "1" / "model.onnx").is_file() for name in (run, "other"))


def test_publish_refuses_a_bad_name_in_one_line(bundle, tmp_path, capsys):
    arguments = ["publish", str(bundle), "--repository", str(tmp_path), "--name", "../up"]

    assert main(arguments) == 2
    assert "'../up'" in one_line(capsys)


@pytest.mark.parametrize("command", ["evaluate", "ablate", "bench", "count"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(
    bundle, pictures, tmp_path, command, capsys
):
    given = {"evaluate": [str(bundle), "--data", str(pictures)], "ablate": ["any.yaml"]}

    with pytest.raises(SystemExit) as caught:
        main([command, *given.get(command, []), "--json", str(tmp_path / "no" / "out.json")])

    assert caught.value.code == 2
    assert f"make {tmp_path / 'no'} first" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_evaluate_given_the_folder_of_a_class_says_which_to_give(bundle, pictures, capsys):
    assert main(["evaluate", str(bundle), "--data", str(pictures / "blue")]) == 2
    assert "give the folder above" in one_line(capsys)


def test_publishing_says_what_is_served_and_what_it_replaces(bundle, tmp_path, caplog):
    command = ["publish", str(bundle), "--repository", str(tmp_path / "models"), "--name", "x"]
    with caplog.at_level(logging.INFO):
        assert main(command) == main(command) == 0
        (bundle / "card.json").write_text(dataclasses.replace(CARD, description="Again.").to_json())
        assert main(command) == 0

    assert [record.getMessage() for record in caplog.records] == [
        "x: version 1 is served from now on",
        "x: version 1, which is served, holds the same; nothing is published",
        "x: version 2 is served from now on and replaces version 1, which stays in its folder",
    ]


def test_publishing_a_folder_that_is_no_bundle_says_what_was_expected(tmp_path, capsys):
    assert main(["publish", str(tmp_path), "--repository", str(tmp_path / "models")]) == 2
    said = one_line(capsys)
    assert f"a folder with model.onnx and card.json, at {tmp_path}, found no card.json" in said
    assert "Errno" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])

    assert caught.value.code == 0
    said = capsys.readouterr().out
    (example,) = [line.strip() for line in said.splitlines() if line.startswith("  gpusq ")]
    assert example.startswith(f"gpusq {command} ")
    assert _parser().parse_args(example.split()[1:])


def test_the_help_of_the_whole_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    said = capsys.readouterr().out
    assert all(f"    {command} " in said for command in [*COMMANDS, "serve"])


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])

    assert caught.value.code == 2
    assert "usage: gpusq" in capsys.readouterr().err


def test_the_command_itself_starts_without_torch():
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from compress.__main__ import _parser, main\n"
        "main(['publish', '--help'])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "gpusq publish runs/digits/bundle" in done.stdout


def test_a_bundle_and_its_repository_folder_have_the_same_card(bundle, tmp_path):
    version = repository.publish(bundle, tmp_path / "models", "brightest", max_batch_size=4)

    model, card = bundles.find(version.parent)

    assert model == version / "model.onnx"
    assert bundles.find(bundle) == (bundle / "model.onnx", card)


def test_of_several_versions_the_served_one_is_found(bundle, tmp_path):
    models = tmp_path / "models"
    repository.publish(bundle, models, "brightest", max_batch_size=4)
    (bundle / "card.json").write_text(dataclasses.replace(CARD, description="Again.").to_json())
    second = repository.publish(bundle, models, "brightest", max_batch_size=4)

    model, card = bundles.find(models / "brightest")

    assert second.name == "2"
    assert model.parent == second
    assert card.precision.sparsity == "dense"


def test_a_bundle_without_its_graph_is_refused(bundle):
    (bundle / "model.onnx").unlink()

    with pytest.raises(PlanError, match=r"expected an ONNX file at .*model\.onnx, found none"):
        bundles.find(bundle)


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.pbtxt").write_text("name: [")

    with pytest.raises(PlanError, match=r"config\.pbtxt cannot be read"):
        bundles.find(tmp_path)


def test_a_configuration_without_a_card_is_refused(tmp_path):
    (tmp_path / "config.pbtxt").write_text('name: "x"')

    with pytest.raises((PlanError, CardError), match="no parameter 'gpusq_card'"):
        bundles.find(tmp_path)


def test_a_model_without_any_version_is_refused(bundle, tmp_path):
    version = repository.publish(bundle, tmp_path / "models", "brightest", max_batch_size=4)
    config = version.parent / "config.pbtxt"
    text = re.sub(r"version_policy \{.*?\n\}\n", "", config.read_text(), flags=re.DOTALL)
    assert text != config.read_text()
    config.write_text(text)
    assert bundles.find(version.parent)[0] == version / "model.onnx"

    shutil.rmtree(version)
    with pytest.raises(PlanError, match="expected a version folder, such as 1"):
        bundles.find(version.parent)
