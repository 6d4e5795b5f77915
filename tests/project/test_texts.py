"""What people read: the README's commands work, versions agree, no machine shows through."""

import dataclasses
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from compress import recipe_file
from compress.__main__ import _parser
from contract.card import Accuracy, ModelCard, Precision
from contract.plan_card import PlanCard
from contract.preprocess import Preprocessing
from service.security import keys_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))
# The folders of one machine, and addresses of a package index.
MACHINE = re.compile(
    r"(?<![\w.:/-])/(root|home/\w+|Users/\w+|work|tmp/\w+)/"
    r"|https?://\S*(pypi|pythonhosted|artifactory|/simple(?![\w-]))"
    r"|--(extra-)?index-url[ =]\S"
)


def tracked() -> list[Path]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def commands_in(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_readme_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 150


def test_the_readme_begins_with_the_two_commands_of_a_newcomer():
    assert commands_in(README)[:2] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_command_that_people_read_is_a_target(page):
    commands = commands_in(page.read_text(encoding="utf-8"))
    named = {word for words in commands if words[0] == "make" for word in words[1:]}

    assert {word for word in named if "=" not in word} <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_gpusq_command_that_people_read_is_understood(page):
    for words in commands_in(page.read_text(encoding="utf-8")):
        # Serving is understood by the service. The parser ends the test with its complaint.
        if words[:2] == ["gpusq", "keys"]:
            keys_command.parser().parse_args(words[2:])
        elif words[0] == "gpusq" and words[1] != "serve":
            _parser().parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_people_are_sent_to_are_there(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_ci_runs_what_the_readme_promises():
    ci = (ROOT / ".ci/run").read_text()

    assert "make test" in ci
    assert "make check" in ci


def test_the_changelog_begins_with_the_version_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"$', project, flags=re.MULTILINE)

    versions = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert next(entry for entry in versions if entry != "Unreleased") == version


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path):
    recipe_file.load(path)


def test_there_are_recipes():
    assert {"digits", "deit-tiny-imagenet"} <= {path.stem for path in RECIPES}


def test_no_text_names_a_folder_of_one_machine_or_a_package_index():
    found = {}
    for path in tracked():
        if path != Path(__file__) and path.is_file():
            text = path.read_bytes().decode("utf-8", errors="ignore")
            if match := MACHINE.search(text):
                found[str(path.relative_to(ROOT))] = match.group()

    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "see /root/x",
        "(/home/ann/x)",
        "'/work/main/a'",
        "https://pypi.example/simple",
        "--index-url=x",
    ],
)
def test_the_search_for_machines_finds_one(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize(
    "text", ["the home folder", "https://github.com/work/simple-x", "a/root/b"]
)
def test_the_search_for_machines_leaves_prose_alone(text):
    assert not MACHINE.search(text)


def test_every_field_of_the_card_is_explained():
    page = (ROOT / "docs/contract.md").read_text(encoding="utf-8")

    for kind in (ModelCard, Preprocessing, Precision, Accuracy, PlanCard):
        for entry in dataclasses.fields(kind):
            assert f"`{entry.name}`" in page, f"{kind.__name__}.{entry.name}"
