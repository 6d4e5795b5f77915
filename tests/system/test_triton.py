"""A real Triton serves what we publish, and answers as the embedded executors do."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from compress.plan import triton_config, triton_python_model
from compress.plan.bundle import read_bundle
from compress.plan.install import NewPlan
from compress.plan.install import install as install_plan
from compress.plan.repository import publish
from contract import plan_card
from contract.card import ModelCard
from contract.plan_card import PlanCard
from service.executors.embedded import EmbeddedExecutor
from service.executors.onnxruntime import OnnxRuntimeNetwork
from service.executors.openvino import OpenVinoNetwork
from tests import finding
from tests.bundles import colour_card, colour_graph, write_bundle
from tests.contract.pictures import photo
from tests.system import triton_server

pytestmark = pytest.mark.triton

OURS = Path(__file__).parents[2] / "model_repository"
STORED = sorted(path.parent.name for path in OURS.glob("[!.]*/config.pbtxt"))
NETWORKS = {"openvino": OpenVinoNetwork, "onnxruntime": OnnxRuntimeNetwork}
# Of several outputs, one with masks, and of one that is no float.
SCENES = {
    "shapes": (finding.detector(), finding.card("detect")),
    "areas": (finding.segmenter(), finding.card("segment")),
}
# Of probabilities.
TOLERANCE = 1e-3


def card_in(config) -> ModelCard:
    return ModelCard.from_parameters({k: v.string_value for k, v in config.parameters.items()})


def bundle_of(stored: Path, folder: Path) -> Path:
    """Return the bundle that a model folder of ours was published from."""
    config = triton_config.read(stored)
    network = stored / str(triton_config.pinned_version(config)) / "model.onnx"
    folder.mkdir()
    shutil.copy(network, folder)
    (folder / "card.json").write_text(card_in(config).to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=NETWORKS)
def runtime(request):
    """What runs the networks, in the server and in the embedded executor alike.

    Two runtimes sum in different order, which tips INT8 roundings: docs/decisions.md.
    """
    return request.param


@pytest.fixture(scope="module")
def installation(runtime):
    return triton_server.install(runtime)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return write_bundle(folder, colour_graph(), colour_card(("röd", "grön", "blå", "svart")))


@pytest.fixture(scope="module")
def repository(tmp_path_factory, colours):
    folder = tmp_path_factory.mktemp("repository")
    publish(colours, folder, "colours", backend="python")
    for name, (graph, card) in SCENES.items():
        bundle = write_bundle(tmp_path_factory.mktemp("scene"), graph, card)
        publish(bundle, folder, name, backend="python")
    for name in STORED:
        bundle = bundle_of(OURS / name, tmp_path_factory.mktemp("bundles") / name)
        publish(bundle, folder, name, backend="python")
    planned(colours, folder)
    # What a killed publisher leaves behind must not keep a server from starting.
    (folder / ".publish-other-model.onnx").write_bytes(b"half of a netw")
    (folder / "colours" / ".publish-2").mkdir()
    return folder


def planned(bundle: Path, folder: Path) -> None:
    """Install a plan, and let the Python backend stand in for it.

    This server has neither a GPU nor the TensorRT backend: what says which of them runs the model
    is changed, and all else that we write stays.
    """
    card = PlanCard("10.3.0", "8.7", "Orin", "540.4.0, CUDA 12.6", (), 4, "ab" * 32)
    new = NewPlan("sm87", b"no plan", b"{}", card)
    version = install_plan(read_bundle(bundle), new, folder, "planned", instances=2)
    config = triton_config.read(version.parent)
    config.platform, config.backend, config.default_model_filename = "", "python", "model.py"
    for group in config.instance_group:
        group.kind = group.KIND_CPU
    (version.parent / "config.pbtxt").write_text(triton_config.to_text(config), encoding="utf-8")
    shutil.copy(triton_python_model.__file__, version / "model.py")


@pytest.fixture(scope="module")
def address(installation, repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with triton_server.running(installation, repository, log) as started:
        yield started


@pytest.fixture
def client(address):
    with InferenceServerClient(address) as opened:
        yield opened


@pytest.fixture(scope="module")
def executor(runtime, repository):
    embedded = EmbeddedExecutor(runtime, NETWORKS[runtime], repository)
    yield embedded
    embedded.close()


def pictures(client: InferenceServerClient, name: str, count: int) -> np.ndarray:
    (image,) = client.get_model_config(name).config.input
    height, width, _ = image.dims
    return np.stack([np.array(photo(width, height, seed)) for seed in range(count)])


def asked(images: np.ndarray) -> list[InferInput]:
    image = InferInput("image", images.shape, "UINT8")
    image.set_data_from_numpy(images)
    return [image]


@pytest.mark.parametrize("name", ["colours", *SCENES, *STORED])
def test_triton_gives_the_card_back_as_it_was_written(name, client, repository):
    written = triton_config.read(repository / name)

    served = client.get_model_config(name).config

    assert served.parameters["gpusq_card"] == written.parameters["gpusq_card"]
    assert card_in(served) == card_in(written)


@pytest.mark.parametrize("name", ["colours", *STORED])
def test_triton_answers_as_the_embedded_executor_does(name, client, executor):
    images = pictures(client, name, 40)

    theirs = np.concatenate(
        [
            client.infer(name, asked(batch)).as_numpy("scores")
            for batch in np.split(images, [1, 6, 8, 16, 24, 32])
        ]
    )

    ours = asyncio.run(executor.infer(name, images))["scores"]
    assert theirs.shape == ours.shape == (40, len(executor.models[name].card.labels))
    np.testing.assert_allclose(theirs.sum(axis=1), 1, atol=TOLERANCE)
    np.testing.assert_allclose(theirs, ours, atol=TOLERANCE)


@pytest.mark.parametrize("name", SCENES)
def test_triton_gives_every_output_as_the_embedded_executor_does(name, client, executor):
    painted = [
        finding.scene((160, 120), {"red": (i, 10, 40 + i, 70), "blue": (90, 20, 150, 80 + i)})
        for i in range(7)
    ]
    images = np.stack([np.asarray(image) for image in painted])

    result = client.infer(name, asked(images))

    ours = asyncio.run(executor.infer(name, images))
    assert {output.name for output in result.get_response().outputs} == set(ours)
    for output, values in ours.items():
        theirs = result.as_numpy(output)
        assert (theirs.dtype, theirs.shape) == (values.dtype, values.shape)
        np.testing.assert_allclose(theirs, values, atol=TOLERANCE)


def test_requests_that_triton_batches_each_get_their_own_answer(client, executor):
    images = pictures(client, "colours", 40)
    answers: dict[int, np.ndarray] = {}

    def take(result, error, index):
        answers[index] = None if error else result.as_numpy("scores")[0]

    for index in range(len(images)):
        client.async_infer(
            "colours",
            asked(images[index : index + 1]),
            callback=lambda result, error, index=index: take(result, error, index),
        )
    deadline = asyncio.run(until(lambda: len(answers) == len(images)))
    assert deadline, f"{len(answers)} of {len(images)} answered"

    ours = asyncio.run(executor.infer("colours", images))["scores"]
    theirs = np.stack([answers[index] for index in range(len(images))])
    np.testing.assert_allclose(theirs, ours, atol=TOLERANCE)


async def until(condition, timeout_s: float = 30.0) -> bool:
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


def test_triton_refuses_a_batch_over_the_limit_of_the_configuration(client):
    with pytest.raises(InferenceServerException, match=r"batch-size must be <= 8"):
        client.infer("colours", asked(pictures(client, "colours", 9)))


def test_triton_refuses_pictures_of_another_size(client):
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        client.infer("colours", asked(np.zeros((1, 9, 8, 3), np.uint8)))


def test_a_published_version_is_the_one_that_triton_serves_after_a_load(
    installation, colours, tmp_path
):
    repository = tmp_path / "repository"
    publish(colours, repository, "colours", backend="python")
    options = ("--model-control-mode=explicit", "--load-model=colours")
    with (
        triton_server.running(installation, repository, tmp_path / "log", *options) as address,
        InferenceServerClient(address) as client,
    ):
        assert client.get_model_config("colours").config.version_policy.specific.versions == [1]
        again = write_bundle(tmp_path / "again", colour_graph(), colour_card())
        publish(again, repository, "colours", backend="python")
        assert card_in(client.get_model_config("colours").config).labels.names[0] == "röd"

        client.load_model("colours")

        assert card_in(client.get_model_config("colours").config).labels.names[0] == "red"
        assert client.is_model_ready("colours", "2")
        assert not client.is_model_ready("colours", "1")


def test_triton_understands_the_form_for_its_onnxruntime_backend(installation, colours, tmp_path):
    publish(colours, tmp_path / "repository", "colours", backend="onnxruntime")

    # This build has no such backend: that it looks for one shows that it read the rest.
    with (
        pytest.raises(triton_server.ServerExitedError, match="unable to find backend library"),
        triton_server.running(installation, tmp_path / "repository", tmp_path / "log"),
    ):
        pass


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("max_batch_size: 8", 'max_batch_size: "8"', "failed to read text proto"),
        ("TYPE_UINT8", "TYPE_FP32", "data-type is 'UINT8', but .* expects 'FP32'"),
        ('name: "colours"', 'name: "others"', "others"),
        ("versions: 1", "versions: 3", "at least one version must be available"),
    ],
)
def test_triton_refuses_a_configuration_that_somebody_broke(
    right, wrong, complaint, installation, colours, tmp_path
):
    publish(colours, tmp_path / "repository", "colours", backend="python")
    config = tmp_path / "repository" / "colours" / "config.pbtxt"
    assert right in config.read_text(encoding="utf-8")
    config.write_text(config.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")

    with (
        pytest.raises((triton_server.ServerExitedError, InferenceServerException), match=complaint),
        triton_server.running(installation, tmp_path / "repository", tmp_path / "log") as address,
        InferenceServerClient(address) as client,
    ):
        client.infer("colours", asked(np.zeros((1, 8, 8, 3), np.uint8)))


def test_triton_takes_the_configuration_of_a_plan(client, executor):
    config = client.get_model_config("planned").config
    images = pictures(client, "planned", 4)

    theirs = client.infer("planned", asked(images)).as_numpy("scores")

    ours = asyncio.run(executor.infer("colours", images))["scores"]
    np.testing.assert_allclose(theirs, ours, atol=TOLERANCE)
    parameters = {key: entry.string_value for key, entry in config.parameters.items()}
    (card,) = plan_card.from_parameters(parameters).values()
    assert (card.tensorrt, card.capability, card.gpu) == ("10.3.0", "8.7", "Orin")
    assert dict(config.cc_model_filenames) == {"8.7": "model.sm87.plan"}
    assert [entry.batch_size for entry in config.model_warmup] == [1, 2, 3, 4]
    assert config.instance_group[0].count == 2
    # Both instances ran each batch size before the model was ready.
    (statistics,) = client.get_inference_statistics("planned").model_stats
    assert statistics.inference_count == 2 * (1 + 2 + 3 + 4) + 4
