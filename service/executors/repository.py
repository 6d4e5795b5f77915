"""Read a model repository: the layout that Triton reads, and the same files.

<model>/config.pbtxt            inputs, outputs, the version policy, and the card as a parameter
<model>/<version>/model.onnx    the network, unless `default_model_filename` names another file
<model>/<version>/model.plan    beside it or instead, what tensorrt.py reads
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from contract.card import ModelCard
from contract.errors import CardError
from service.errors import ModelError, StartError
from service.executors.executor import Model, TensorSpec

CONFIG: Final = "config.pbtxt"
DEFAULT_FILENAME: Final = "model.onnx"
PLAN: Final = ".plan"
_DTYPES: Final = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
}

# Of a configuration and the folder of the version, the file that is loaded. Raises ModelError
# where none can be.
Pick = Callable[[Any, Path], Path]


@dataclass(frozen=True)
class StoredModel:
    """A model as its folder describes it, not loaded yet."""

    model: Model
    path: Path


def folders(repository: Path) -> list[Path]:
    """Return the model folders by name.

    Raises:
        StartError: There is no such folder, or no model in it.
    """
    if not _is_folder(repository):
        raise StartError(
            f"no model repository at {repository}. Name one with --repository DIR; "
            "'gpusq compress RECIPE' writes it."
        )
    # Writers rename a folder into place last; until then its name begins with a dot.
    found = sorted(p for p in _entries(repository) if p.is_dir() and not p.name.startswith("."))
    if not any(map(is_model, found)):
        raise StartError(
            f"{repository} holds no model. Each model is a folder with a {CONFIG}. Name another "
            "with --repository DIR; 'gpusq compress RECIPE' writes one."
        )
    return found


def is_model(folder: Path) -> bool:
    """Say whether a folder of a repository is a model; one that may not be looked into is."""
    try:
        return (folder / CONFIG).is_file()
    except PermissionError:
        return True


def _is_folder(repository: Path) -> bool:
    try:
        return repository.is_dir()
    except PermissionError as error:
        raise StartError(
            f"the model repository {repository} may not be looked at: {error.strerror}. Let the "
            "user that runs the service read it and the folders above."
        ) from error


def _entries(repository: Path) -> list[Path]:
    try:
        return list(repository.iterdir())
    except PermissionError as error:
        raise StartError(
            f"the model repository {repository} may not be read: {error.strerror}. Let the user "
            "that runs the service read it."
        ) from error


def onnx_file(config: Any, version: Path) -> Path:
    """Return the ONNX file of a version; where the configuration names a plan, the one beside it.

    Raises:
        ModelError: There is none.
    """
    named = Path(config.default_model_filename or DEFAULT_FILENAME).name
    path = version / (DEFAULT_FILENAME if named.endswith(PLAN) else named)
    if path.suffix != ".onnx":
        raise ModelError(f"{path.name} is not ONNX, which is what the embedded executors read")
    if path.is_file():
        return path
    if any(version.glob(f"*{PLAN}")):
        raise ModelError(
            f"version {version.name} has a plan for TensorRT and no {path.name}. Serve it with "
            "GPUSQ_EXECUTOR=tensorrt on its GPU."
        )
    raise ModelError(f"version {version.name} has no {path.name}")


def read(folder: Path, pick: Pick = onnx_file) -> StoredModel:
    """Read the description of one model.

    Args:
        folder: Of the model.
        pick: Chooses the file.

    Raises:
        ModelError: A file is missing or broken, or card and configuration contradict each other.
    """
    config = _config(folder / CONFIG)
    card = _card(config)
    try:
        version = _version(folder, config)
        model = _model(folder.name, version, card, config)
        path = pick(config, folder / str(version))
        return StoredModel(replace(model, file_bytes=path.stat().st_size), path)
    except OSError as error:
        raise ModelError(f"its folder cannot be read: {error.strerror}") from error


def describe(name: str, version: int, config: Any) -> Model:
    """Return what a configuration says of one version.

    Args:
        name: Of the model.
        version: The one that answers.
        config: Its configuration, Triton's message.

    Raises:
        ModelError: It has no card, or card and configuration contradict each other.
    """
    return _model(name, version, _card(config), config)


def require_match(
    expected: Iterable[TensorSpec], graph: Iterable[TensorSpec], *, kind: str
) -> None:
    """Check that a graph has the tensors that its configuration promises.

    Raises:
        ModelError: One is missing, or is of another type or shape.
    """
    declared = {spec.name: spec for spec in graph}
    for spec in expected:
        found = declared.get(spec.name)
        if found is None or not spec.accepts(found):
            raise ModelError(
                f"{CONFIG} promises {kind} {spec}, the graph has "
                f"{', '.join(map(str, declared.values()))}"
            )


def _model(name: str, version: int, card: ModelCard, config: Any) -> Model:
    model = Model(
        name=name,
        version=version,
        card=card,
        inputs=_tensors(config.input, config.max_batch_size),
        outputs=_tensors(config.output, config.max_batch_size),
        max_batch=max(1, config.max_batch_size),
    )
    _require_image_input(model)
    return model


def _config(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except FileNotFoundError as error:
        raise ModelError(f"the folder has no {CONFIG}") from error
    except OSError as error:
        raise ModelError(f"{CONFIG} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise ModelError(f"{CONFIG} cannot be parsed: {error}") from error


def _card(config: Any) -> ModelCard:
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    try:
        return ModelCard.from_parameters(parameters)
    except CardError as error:
        raise ModelError(f"{CONFIG}: {error}") from error


def _version(folder: Path, config: Any) -> int:
    """Return the newest version that the policy admits."""
    stored = {int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()}
    wanted = set(config.version_policy.specific.versions)
    if wanted and not wanted & stored:
        pinned = ", ".join(map(str, sorted(wanted)))
        raise ModelError(f"{CONFIG} pins version {pinned}, the folder has {sorted(stored)}")
    if not stored:
        raise ModelError("the folder has no version, such as 1/")
    return max(wanted & stored if wanted else stored)


def _tensors(entries: Iterable[Any], max_batch_size: int) -> tuple[TensorSpec, ...]:
    # With max_batch_size the configuration leaves the batch axis out of the dims.
    batch = (-1,) if max_batch_size else ()
    return tuple(
        TensorSpec(entry.name, _dtype(entry), (*batch, *map(int, entry.dims))) for entry in entries
    )


def _dtype(entry: Any) -> str:
    name = model_config_pb2.DataType.Name(entry.data_type)
    if name not in _DTYPES:
        raise ModelError(f"{CONFIG} gives {entry.name!r} the type {name}, which no graph here has")
    return _DTYPES[name]


def _require_image_input(model: Model) -> None:
    size = model.card.preprocessing
    expected = TensorSpec("image", "uint8", (-1, size.height, size.width, 3))
    if len(model.inputs) != 1 or not expected.accepts(model.inputs[0]):
        found = ", ".join(map(str, model.inputs)) or "none"
        raise ModelError(f"the card asks for the input {expected}, {CONFIG} has {found}")
