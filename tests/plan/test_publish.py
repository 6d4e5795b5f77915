"""What publishing a bundle leaves on the disk, and which bundles it refuses."""

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.errors import CompressError, PublishError
from compress.plan.repository import publish
from contract.card import ModelCard
from tests.plan import tiny

GOLDEN = Path(__file__).with_name("golden_classify.pbtxt")


@pytest.fixture
def bundle(tmp_path):
    return tiny.write_bundle(tmp_path / "bundle")


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def config_of(model_folder: Path) -> ModelConfig:
    return text_format.Parse((model_folder / "config.pbtxt").read_text(), ModelConfig())


def files_in(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {".publish.lock"}


def test_a_published_classifier_is_described_as_reviewed(bundle, repository):
    publish(bundle, repository, "tiny")

    assert (repository / "tiny/config.pbtxt").read_text(encoding="utf-8") == GOLDEN.read_text(
        encoding="utf-8"
    )


def test_a_first_publish_makes_version_one_with_the_network_as_it_was(bundle, repository):
    version = publish(bundle, repository, "tiny")

    assert version == repository / "tiny/1"
    assert files_in(repository) == {"tiny/config.pbtxt", "tiny/1/model.onnx"}
    assert (version / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_the_python_form_brings_the_program_that_runs_the_network(bundle, repository):
    version = publish(bundle, repository, "tiny", backend="python")

    assert config_of(repository / "tiny").backend == "python"
    assert files_in(version) == {"model.onnx", "model.py"}
    compile((version / "model.py").read_text(), "model.py", "exec")


def test_the_card_comes_back_from_the_parameters(bundle, repository):
    publish(bundle, repository, "tiny")

    parameters = config_of(repository / "tiny").parameters
    card = ModelCard.from_parameters({key: parameters[key].string_value for key in parameters})
    assert card == tiny.card()


def test_publishing_the_same_again_changes_nothing(bundle, repository):
    first = publish(bundle, repository, "tiny")
    before = (repository / "tiny/config.pbtxt").stat()

    assert publish(bundle, repository, "tiny") == first

    after = (repository / "tiny/config.pbtxt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files_in(repository) == {"tiny/config.pbtxt", "tiny/1/model.onnx"}


@pytest.mark.parametrize("change", ["network", "card", "backend", "batch", "damage"])
def test_publishing_anything_else_adds_a_version_and_pins_it(change, bundle, repository):
    publish(bundle, repository, "tiny")
    options = {}
    if change == "network":
        tiny.write_bundle(bundle, tiny.graph(gain=5.0))
    elif change == "card":
        tiny.write_bundle(bundle, model_card=tiny.card(classes=["rot", "grün", "blau"]))
    elif change == "backend":
        options["backend"] = "python"
    elif change == "batch":
        options["max_batch_size"] = 4
    else:
        (repository / "tiny/1/model.onnx").write_bytes(b"half of a netw")

    assert publish(bundle, repository, "tiny", **options) == repository / "tiny/2"

    assert list(config_of(repository / "tiny").version_policy.specific.versions) == [2]
    assert (repository / "tiny/1/model.onnx").exists()


def test_versions_grow_past_folders_that_are_not_served(bundle, repository):
    publish(bundle, repository, "tiny")
    (repository / "tiny/7").mkdir()
    (repository / "tiny/notes").mkdir()
    tiny.write_bundle(bundle, tiny.graph(gain=5.0))

    assert publish(bundle, repository, "tiny") == repository / "tiny/8"
    assert (repository / "tiny/7").exists()


def test_the_files_can_be_read_by_another_user(bundle, repository):
    version = publish(bundle, repository, "tiny")

    for path in (repository / "tiny", version):
        assert path.stat().st_mode & 0o555 == 0o555
    for path in (repository / "tiny/config.pbtxt", version / "model.onnx"):
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
        publish(bundle, repository, "tiny", backend="tensorflow")
    with pytest.raises(PublishError, match="at least 1"):
        publish(bundle, repository, "tiny", max_batch_size=0)


def test_a_bundle_without_one_of_its_files_is_refused(bundle, repository):
    (bundle / "card.json").rename(bundle / "elsewhere")
    with pytest.raises(PublishError, match=r"no readable card.*card\.json"):
        publish(bundle, repository, "tiny")

    (bundle / "elsewhere").rename(bundle / "card.json")
    (bundle / "model.onnx").unlink()
    with pytest.raises(PublishError, match=r"no readable network.*model\.onnx"):
        publish(bundle, repository, "tiny")


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x08" * 40])
def test_a_file_that_is_no_network_is_refused(content, bundle, repository):
    (bundle / "model.onnx").write_bytes(content)

    with pytest.raises(PublishError, match=r"model\.onnx"):
        publish(bundle, repository, "tiny")


def test_a_network_cut_off_in_the_middle_is_refused(bundle, repository):
    whole = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(PublishError, match="not a valid ONNX file"):
        publish(bundle, repository, "tiny")


def test_a_card_that_cannot_be_read_is_refused(bundle, repository):
    (bundle / "card.json").write_text('{"card_version": 99}')

    with pytest.raises(PublishError, match=r"card\.json: this card has version 99"):
        publish(bundle, repository, "tiny")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny.graph(batch=1), "fixed batch of 1"),
        (tiny.graph(classes=4), r"scores float32 \[b, 3\], it has scores float32 \[b, 4\]"),
        (tiny.graph(side_px=8), r"image uint8 \[b, 4, 4, 3\], it has image uint8 \[b, 8, 8, 3\]"),
        (tiny.graph(element=TensorProto.INT8), "it has image int8"),
        (tiny.graph(opset=16), "opset 16, expected 17 to 21"),
        (tiny.graph(opset=22), "opset 22, expected 17 to 21"),
    ],
)
def test_a_graph_that_its_card_does_not_describe_is_refused(model, message, tmp_path, repository):
    bundle = tiny.write_bundle(tmp_path / "other", model)

    with pytest.raises(PublishError, match=message):
        publish(bundle, repository, "tiny")

    assert not repository.exists()


def test_a_graph_with_an_open_height_is_refused(tmp_path, repository):
    model = tiny.graph()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "h"

    with pytest.raises(PublishError, match="only leave its batch axis open"):
        publish(tiny.write_bundle(tmp_path / "open", model), repository, "tiny")


def test_a_graph_with_a_second_input_is_refused(tmp_path, repository):
    model = tiny.graph()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["b", 1]))

    with pytest.raises(PublishError, match="more float32"):
        publish(tiny.write_bundle(tmp_path / "two", model), repository, "tiny")


def test_weights_in_another_file_are_refused(bundle, repository):
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, bundle / "model.onnx", save_as_external_data=True, size_threshold=0)

    with pytest.raises(PublishError, match="weights in other files"):
        publish(bundle, repository, "tiny")


@pytest.mark.parametrize("config", [None, 'name: "tiny"\n', "name: [", "\x00\xff"])
def test_a_folder_that_somebody_else_made_is_left_alone(config, bundle, repository):
    theirs = repository / "tiny"
    theirs.mkdir(parents=True)
    (theirs / "model.bin").write_bytes(b"theirs")
    if config is not None:
        (theirs / "config.pbtxt").write_text(config)

    with pytest.raises(PublishError, match="publish under another name"):
        publish(bundle, repository, "tiny")

    expected = {"tiny/model.bin"} | ({"tiny/config.pbtxt"} if config is not None else set())
    assert files_in(repository) == expected


def test_a_repository_that_cannot_be_written_is_a_plain_error(bundle, tmp_path):
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(CompressError, match="cannot write to"):
        publish(bundle, tmp_path / "file", "tiny")
