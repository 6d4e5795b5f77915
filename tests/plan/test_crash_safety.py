"""A publisher may be killed at any moment, and two may run at once: no reader ever notices."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.plan.bundle import read_bundle
from compress.plan.install import NewPlan, install
from compress.plan.repository import publish
from contract.card import ModelCard
from contract.plan_card import PlanCard
from tests.bundles import colour_card, colour_graph, write_bundle

# Forked children inherit the imports, so that killing dozens of them takes a second.
fork = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
Put = Callable[[Path, Path, str], Path]
WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile"}


def bundle_of(folder: Path, mark: str) -> Path:
    """Return a bundle whose card and network can be told to belong together."""
    graph = colour_graph()
    graph.doc_string = mark
    return write_bundle(folder, graph, colour_card((mark, "b", "c", "d")))


def publish_plan(bundle: Path, repository: Path, name: str) -> Path:
    """Install a bundle with a plan that can be told to belong to it."""
    checked = read_bundle(bundle)
    mark = checked.card.labels.names[0].encode()
    card = PlanCard("10.3.0", "8.7", "Orin", "540.4.0, CUDA 12.6", (), 4, "ab" * 32)
    new = NewPlan("sm87", b"plan of " + mark, b"{}", card)
    return install(checked, new, repository, name, instances=1)


def served(repository: Path, name: str) -> tuple[str, bytes] | None:
    """Read a model as a server does: the first label and the network, None when there is none."""
    if not (repository / name).exists():
        return None
    config = text_format.Parse((repository / name / "config.pbtxt").read_text(), ModelConfig())
    card = ModelCard.from_parameters({k: v.string_value for k, v in config.parameters.items()})
    (version,) = config.version_policy.specific.versions
    folder = repository / name / str(version)
    if config.default_model_filename:
        plan = (folder / config.default_model_filename).read_bytes()
        assert plan == b"plan of " + card.labels.names[0].encode()
    return card.labels.names[0], (folder / "model.onnx").read_bytes()


def publish_until_killed(put: Put, bundle: Path, repository: Path, step: int) -> None:
    """Publish in this process, but die just before file operation number ``step``."""
    left = step

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        if event in WATCHED and str(args[0]).startswith(str(repository)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    put(bundle, repository, "colours")


def killed_at(step: int, put: Put, bundle: Path, repository: Path) -> bool:
    child = fork.Process(target=publish_until_killed, args=(put, bundle, repository, step))
    child.start()
    child.join(30)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def leftovers(repository: Path) -> list[str]:
    return [path.name for path in repository.rglob(".*") if path.name != ".publish.lock"]


@pytest.mark.parametrize("put", [publish, publish_plan])
@pytest.mark.parametrize("already", [False, True], ids=["first publish", "next version"])
def test_killed_anywhere_the_old_state_stands_and_the_next_publish_cleans_up(
    put, already, tmp_path
):
    old, new = bundle_of(tmp_path / "old", "old"), bundle_of(tmp_path / "new", "new")
    outcomes = []
    for step in range(1, 1000):
        repository = tmp_path / f"repository {step}"
        if already:
            put(old, repository, "colours")
        before = served(repository, "colours")

        if not killed_at(step, put, new, repository):
            break
        after = served(repository, "colours")
        whole = ("new", (new / "model.onnx").read_bytes())
        assert after in (before, whole), f"killed before file operation {step}"
        outcomes.append(after == whole)

        version = put(new, repository, "colours")
        assert served(repository, "colours") == whole
        assert leftovers(repository) == []
        numbers = {path.name for path in (repository / "colours").iterdir() if path.is_dir()}
        assert numbers == ({"1", version.name} if already else {"1"})

    # Both sides of the switch were tried, and it happens once.
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes)
    assert True in outcomes


def test_nothing_but_files_lies_in_the_repository_while_a_first_network_is_copied(tmp_path):
    # Triton takes each folder for a model, hidden ones too, and does not start over a broken one.
    bundle, repository = bundle_of(tmp_path / "new", "new"), tmp_path / "repository"
    child = fork.Process(target=publish_and_look_for_folders, args=(bundle, repository))
    child.start()
    child.join(30)

    assert child.exitcode == 0


def publish_and_look_for_folders(bundle: Path, repository: Path) -> None:
    folders_seen = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == "shutil.copyfile":
            folders_seen.append([path for path in repository.iterdir() if path.is_dir()])

    sys.addaudithook(watch)
    publish(bundle, repository, "colours")
    sys.exit(folders_seen != [[]])


def publish_often(bundles: list[Path], repository: Path) -> None:
    for _ in range(5):
        for bundle in bundles:
            publish(bundle, repository, "colours")


def test_two_publishers_at_once_take_turns_and_a_reader_sees_only_whole_models(tmp_path):
    bundles = [bundle_of(tmp_path / mark, mark) for mark in ("1", "2", "3", "4")]
    networks = {bundle.name: (bundle / "model.onnx").read_bytes() for bundle in bundles}
    repository = tmp_path / "repository"

    publishers = [
        fork.Process(target=publish_often, args=(pair, repository))
        for pair in (bundles[:2], bundles[2:])
    ]
    for publisher in publishers:
        publisher.start()
    seen = set()
    while any(publisher.is_alive() for publisher in publishers):
        model = served(repository, "colours")
        if model is not None:
            label, network = model
            assert network == networks[label]
            seen.add(label)
    for publisher in publishers:
        publisher.join()

    assert [publisher.exitcode for publisher in publishers] == [0, 0]
    assert len(seen) > 1
    # Twenty publishes, none of which equals the one before it in its own process.
    assert leftovers(repository) == []
    versions = sorted(int(p.name) for p in (repository / "colours").iterdir() if p.is_dir())
    assert versions == list(range(1, len(versions) + 1))
