"""What publishing a bundle leaves on the disk, and which bundles it refuses."""

import dataclasses
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.errors import PublishError
from compress.plan.repository import publish
from contract.card import ModelCard
from tests import finding
from tests.bundles import colour_card, colour_graph, write_bundle

CARD = dataclasses.replace(
    colour_card(),
    provenance={"teacher": "made up", "licence": "Apache-2.0"},
    description="Names the colour of a picture, für Tests.",
)


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", colour_graph(), CARD)


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def config_of(model_folder: Path) -> ModelConfig:
    return text_format.Parse((model_folder / "config.pbtxt").read_text(), ModelConfig())


def another_network() -> onnx.ModelProto:
    model = colour_graph()
    model.doc_string = "trained again"
    return model


def files_in(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {".publish.lock"}


REVIEWED = {
    "classify": (colour_graph, CARD),
    "detect": (finding.detector, finding.card("detect")),
    "segment": (finding.segmenter, finding.card("segment")),
}


@pytest.mark.parametrize("task", REVIEWED)
def test_a_published_network_is_described_as_reviewed(task, tmp_path, repository):
    graph, card = REVIEWED[task]

    publish(write_bundle(tmp_path / task, graph(), card), repository, "reviewed")

    golden = Path(__file__).with_name(f"golden_{task}.pbtxt")
    written = repository / "reviewed/config.pbtxt"
    assert written.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8")


def test_a_first_publish_makes_version_one_with_the_network_as_it_was(bundle, repository):
    version = publish(bundle, repository, "colours")

    assert version == repository / "colours/1"
    assert files_in(repository) == {"colours/config.pbtxt", "colours/1/model.onnx"}
    assert (version / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_the_python_form_brings_the_program_that_runs_the_network(bundle, repository):
    version = publish(bundle, repository, "colours", backend="python")

    assert config_of(repository / "colours").backend == "python"
    assert files_in(version) == {"model.onnx", "model.py"}
    compile((version / "model.py").read_text(), "model.py", "exec")


def test_the_card_comes_back_from_the_parameters(bundle, repository):
    publish(bundle, repository, "colours")

    parameters = config_of(repository / "colours").parameters
    card = ModelCard.from_parameters({key: parameters[key].string_value for key in parameters})
    assert card == CARD


def test_publishing_the_same_again_changes_nothing(bundle, repository):
    first = publish(bundle, repository, "colours")
    before = (repository / "colours/config.pbtxt").stat()

    assert publish(bundle, repository, "colours") == first

    after = (repository / "colours/config.pbtxt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files_in(repository) == {"colours/config.pbtxt", "colours/1/model.onnx"}


@pytest.mark.parametrize("change", ["network", "card", "backend", "batch", "damage"])
def test_publishing_anything_else_adds_a_version_and_pins_it(change, bundle, repository):
    publish(bundle, repository, "colours")
    options = {}
    if change == "network":
        write_bundle(bundle, another_network(), CARD)
    elif change == "card":
        write_bundle(bundle, colour_graph(), colour_card(("rot", "grün", "blau", "schwarz")))
    elif change == "backend":
        options["backend"] = "python"
    elif change == "batch":
        options["max_batch_size"] = 4
    else:
        (repository / "colours/1/model.onnx").write_bytes(b"half of a netw")

    assert publish(bundle, repository, "colours", **options) == repository / "colours/2"

    assert list(config_of(repository / "colours").version_policy.specific.versions) == [2]
    assert (repository / "colours/1/model.onnx").exists()


def test_versions_grow_past_folders_that_are_not_served(bundle, repository):
    publish(bundle, repository, "colours")
    (repository / "colours/7").mkdir()
    (repository / "colours/notes").mkdir()
    write_bundle(bundle, another_network(), CARD)

    assert publish(bundle, repository, "colours") == repository / "colours/8"
    assert (repository / "colours/7").exists()


def test_the_files_can_be_read_by_another_user(bundle, repository):
    version = publish(bundle, repository, "colours")

    for path in (repository / "colours", version):
        assert path.stat().st_mode & 0o555 == 0o555
    for path in (repository / "colours/config.pbtxt", version / "model.onnx"):
        assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../up", "a/b", "two words", "näme", "-flag", "a\n"]
)
def test_a_name_that_is_unsafe_as_a_folder_is_refused(name, bundle, repository):
    with pytest.raises(PublishError, match="name holds letters"):
        publish(bundle, repository, name)

    assert not repository.exists()


def test_an_unknown_backend_and_an_empty_batch_are_refused(bundle, repository):
    with pytest.raises(PublishError, match="onnxruntime, python"):
        publish(bundle, repository, "colours", backend="tensorflow")
    with pytest.raises(PublishError, match="at least 1"):
        publish(bundle, repository, "colours", max_batch_size=0)


def test_a_bundle_without_one_of_its_files_is_refused(bundle, repository):
    (bundle / "card.json").rename(bundle / "elsewhere")
    with pytest.raises(
        PublishError, match=r"a folder with model\.onnx and card\.json, at .*found no card\.json"
    ):
        publish(bundle, repository, "colours")

    (bundle / "elsewhere").rename(bundle / "card.json")
    (bundle / "model.onnx").unlink()
    with pytest.raises(PublishError, match=r"with the network model\.onnx at .*found none there"):
        publish(bundle, repository, "colours")


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x08" * 40])
def test_a_file_that_is_no_network_is_refused(content, bundle, repository):
    (bundle / "model.onnx").write_bytes(content)

    with pytest.raises(PublishError, match=r"model\.onnx"):
        publish(bundle, repository, "colours")


def test_a_network_cut_off_in_the_middle_is_refused(bundle, repository):
    whole = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(PublishError, match="not a valid ONNX file"):
        publish(bundle, repository, "colours")


def test_a_card_that_cannot_be_read_is_refused(bundle, repository):
    (bundle / "card.json").write_text('{"card_version": 99}')

    with pytest.raises(PublishError, match=r"card\.json: this card has version 99"):
        publish(bundle, repository, "colours")


def with_batch(length: int) -> onnx.ModelProto:
    model = colour_graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = length
    return model


def with_open_height() -> onnx.ModelProto:
    model = colour_graph()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "h"
    return model


def with_input_type(element: int) -> onnx.ModelProto:
    model = colour_graph()
    model.graph.input[0].type.tensor_type.elem_type = element
    return model


def with_second_input() -> onnx.ModelProto:
    model = colour_graph()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["b", 1]))
    return model


def with_opset(version: int) -> onnx.ModelProto:
    model = colour_graph()
    model.opset_import[0].version = version
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (with_batch(1), "fixed batch of 1"),
        (with_open_height(), "only leave its batch axis open"),
        (colour_graph(5), r"scores float32 \[b, 4\], it has scores float32 \[b, 5\]"),
        (colour_graph(4, 16), r"uint8 \[b, 8, 8, 3\], it has image uint8 \[b, 16, 16, 3\]"),
        (with_input_type(TensorProto.INT8), "it has image int8"),
        (with_second_input(), "more float32"),
        (with_opset(16), "opset 16, expected 17 to 21"),
        (with_opset(22), "opset 22, expected 17 to 21"),
    ],
)
def test_a_graph_that_its_card_does_not_describe_is_refused(model, message, tmp_path, repository):
    bundle = write_bundle(tmp_path / "other", model, CARD)

    with pytest.raises(PublishError, match=message):
        publish(bundle, repository, "colours")

    assert not repository.exists()


def test_weights_in_another_file_are_refused(bundle, repository):
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, bundle / "model.onnx", save_as_external_data=True, size_threshold=0)

    with pytest.raises(PublishError, match="weights in other files"):
        publish(bundle, repository, "colours")


@pytest.mark.parametrize("config", [None, 'name: "colours"\n', "name: [", "\x00\xff"])
def test_a_folder_that_somebody_else_made_is_left_alone(config, bundle, repository):
    theirs = repository / "colours"
    theirs.mkdir(parents=True)
    (theirs / "model.bin").write_bytes(b"theirs")
    if config is not None:
        (theirs / "config.pbtxt").write_text(config)

    with pytest.raises(PublishError, match="publish under another name"):
        publish(bundle, repository, "colours")

    expected = {"colours/model.bin"} | ({"colours/config.pbtxt"} if config is not None else set())
    assert files_in(repository) == expected


def test_a_repository_that_cannot_be_written_is_a_plain_error(bundle, tmp_path):
    (tmp_path / "file").write_text("here")

    with pytest.raises(PublishError, match="cannot write to"):
        publish(bundle, tmp_path / "file" / "below", "colours")


def test_the_folder_of_one_model_is_no_repository(bundle, repository):
    publish(bundle, repository, "colours")

    with pytest.raises(PublishError, match=r"colours is the folder of one model\. Give the folder"):
        publish(bundle, repository / "colours", "again")

    assert files_in(repository / "colours") == {"config.pbtxt", "1/model.onnx"}


def test_a_file_is_no_repository(bundle, tmp_path):
    (tmp_path / "file").write_text("here")

    with pytest.raises(PublishError, match=r"expected a folder of models at .*, found a file"):
        publish(bundle, tmp_path / "file", "colours")
