"""Write a bundle into a model repository, whole or not at all.

The layout is Triton's, and the embedded executors read the same folder:
``<name>/config.pbtxt`` and ``<name>/<version>/model.onnx``. A reader serves the one version that
the configuration pins, so replacing that file is the moment it switches. A process killed on the
way leaves the old state as it was. Imports neither torch nor pydantic.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tritonclient.grpc.model_config_pb2 import ModelConfig

from compress.errors import PublishError
from compress.plan import triton_config
from compress.plan.bundle import MODEL_FILE, Bundle, read_bundle
from compress.plan.served import plan_files, plans_of
from compress.plan.triton_config import CONFIG_FILE, Serving

Backend = Literal["onnxruntime", "python"]

_LOG = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PYTHON_MODEL: Final = Path(__file__).with_name("triton_python_model.py")
# What each backend expects beside config.pbtxt in the folder of a version.
_EXTRA_FILES: Final[Mapping[str, Mapping[str, Path]]] = {
    "onnxruntime": {},
    "python": {"model.py": _PYTHON_MODEL},
}
_LOCK_FILE: Final = ".publish.lock"
_STAGING: Final = ".publish-"


@dataclass(frozen=True)
class Release:
    """What a version consists of.

    Args:
        bundle: Its network.
        files: Of the version's folder by name, each the path of what is copied, or what it holds.
        serving: How Triton runs it.
    """

    bundle: Bundle
    files: Mapping[str, Path | bytes]
    serving: Serving


def publish(
    bundle: Path,
    repository: Path,
    name: str,
    *,
    backend: Backend = "onnxruntime",
    max_batch_size: int = 8,
) -> Path:
    """Put a bundle into a model repository as the version that readers serve from now on.

    Publishing again what is already served changes nothing, also where plans were added to it.
    Versions only grow, older ones stay. Two publishers take turns. What a killed one left behind
    is removed by the next.

    Args:
        bundle: A folder with ``model.onnx`` and ``card.json``.
        repository: The folder of models; made when missing.
        name: The model's folder in it, and its name in every request.
        backend: Which Triton backend runs the network. "python" adds a small ``model.py`` for a
            Triton without the ONNX Runtime backend; the embedded executors read both forms.
        max_batch_size: The most pictures that Triton runs at once.

    Returns:
        The folder of the version that is served.

    Raises:
        PublishError: The bundle is incomplete or contradicts itself, the name is unsafe, the
            folder belongs to somebody else, or the disk refuses.
    """
    if backend not in _EXTRA_FILES:
        raise PublishError(f"backend must be one of {', '.join(_EXTRA_FILES)}, got {backend!r}")
    if max_batch_size < 1:
        raise PublishError(f"max_batch_size must be at least 1, got {max_batch_size}")
    _check(repository, name)
    checked = read_bundle(bundle)
    files: dict[str, Path | bytes] = {MODEL_FILE: checked.model, **_EXTRA_FILES[backend]}

    def release(model_folder: Path) -> Release:
        served = plans_of(model_folder, checked)
        if backend != "onnxruntime" or not served.cards:
            return Release(checked, files, Serving(backend, max_batch_size))
        plans = {path.name: card for path, card in served.cards.items()}
        most = min(card.max_batch for card in plans.values())
        serving = Serving("", most, plans, served.instances)
        return Release(checked, {**files, **served.files()}, serving)

    return install(repository, name, release)


def check_place(repository: Path, name: str) -> None:
    """Find out before long work whether :func:`install` will be able to write.

    Raises:
        PublishError: The name is unsafe, the folder belongs to somebody else, or the disk refuses.
    """
    _check(repository, name)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _locked(repository):
            if (repository / name).exists():
                triton_config.read(repository / name)
    except OSError as error:
        raise PublishError(f"cannot write to {repository}: {error}") from error


def install(repository: Path, name: str, release_of: Callable[[Path], Release]) -> Path:
    """Put a release into a repository, whole or not at all.

    Args:
        repository: The folder of models; made when missing.
        name: Of the model.
        release_of: Given the model's folder, which may not be there, while no other publisher can
            change it.

    Returns:
        The folder of the version that is served.

    Raises:
        PublishError: The folder belongs to somebody else, or the disk refuses.
    """
    _check(repository, name)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _locked(repository):
            _sweep(repository, name)
            try:
                return _install(release_of(repository / name), repository / name)
            finally:
                _sweep(repository, name)
    except OSError as error:
        raise PublishError(f"cannot write to {repository}: {error}") from error


def _check(repository: Path, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise PublishError(
            f"a model's name holds letters, digits, '.', '_' and '-', and begins with a letter "
            f"or digit, got {name!r}. Give one with --name."
        )
    if (repository / CONFIG_FILE).is_file():
        raise PublishError(
            f"expected a folder of models, {repository} is the folder of one model. Give the "
            "folder that it lies in."
        )
    if repository.exists() and not repository.is_dir():
        raise PublishError(f"expected a folder of models at {repository}, found a file")


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Hold the repository for this publisher; the system lets go of it when a process dies."""
    # Writable: NFS makes a lock of a file's bytes of it, which wants that.
    descriptor = os.open(repository / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _install(release: Release, model_folder: Path) -> Path:
    files = release.files

    def config(version: int) -> ModelConfig:
        return triton_config.build(release.bundle, model_folder.name, version, release.serving)

    if not model_folder.exists():
        _write_first(model_folder, files, config(1))
        _LOG.info("%s: version 1 is served from now on", model_folder.name)
        return model_folder / "1"
    current = triton_config.read(model_folder)
    served = triton_config.pinned_version(current)
    if served is not None and current == config(served):
        folder = model_folder / str(served)
        if all(_holds(folder / file, source) for file, source in files.items()):
            _LOG.info(
                "%s: version %d, which is served, holds the same; nothing is published",
                model_folder.name,
                served,
            )
            return folder
    version = max([served or 0, *_versions(model_folder)]) + 1
    _write_next(model_folder, version, files, config(version))
    if lost := plan_files(current) - release.serving.plans.keys():
        _LOG.warning(
            "%s: version %s has %s, version %d has not; build again with gpusq plan",
            model_folder.name,
            served,
            ", ".join(sorted(lost)),
            version,
        )
    _LOG.info(
        "%s: version %d is served from now on and replaces version %s, which stays in its folder",
        model_folder.name,
        version,
        served,
    )
    return model_folder / str(version)


def _write_first(
    model_folder: Path, files: Mapping[str, Path | bytes], config: ModelConfig
) -> None:
    """Make the folder of a model appear whole."""
    # Triton takes every folder of a repository for a model, hidden ones too, and does not start
    # when one cannot be loaded. So what takes long is written to files, which it ignores.
    repository = model_folder.parent
    staged = {
        file: _copy(source, repository / f"{_STAGING}{model_folder.name}-{file}")
        for file, source in files.items()
    }
    text = _write(repository / f"{_STAGING}{model_folder.name}-{CONFIG_FILE}", config)
    folder = repository / f"{_STAGING}{model_folder.name}"
    _assemble(folder / "1", staged)
    text.rename(folder / CONFIG_FILE)
    _sync_folder(folder)
    folder.rename(model_folder)
    _sync_folder(repository)


def _write_next(
    model_folder: Path, version: int, files: Mapping[str, Path | bytes], config: ModelConfig
) -> None:
    """Add a version, then switch to it."""
    # This folder is also the note that the version is not yet served: see _sweep.
    staging = model_folder / f"{_STAGING}{version}"
    staging.mkdir()
    staged = {file: _copy(source, staging / file) for file, source in files.items()}
    text = _write(staging / CONFIG_FILE, config)
    _assemble(staging / str(version), staged)
    (staging / str(version)).rename(model_folder / str(version))
    _sync_folder(model_folder)
    text.replace(model_folder / CONFIG_FILE)
    _sync_folder(model_folder)


def _sweep(repository: Path, name: str) -> None:
    """Remove what a publisher has left behind; called only while the repository is held."""
    for left in repository.glob(f"{_STAGING}*"):
        _remove(left)
    model_folder = repository / name
    for staging in model_folder.glob(f"{_STAGING}*"):
        version = staging.name.removeprefix(_STAGING)
        served = triton_config.pinned_version(triton_config.read(model_folder))
        # Killed between adding the version and switching to it: nobody has ever served it.
        if version != str(served):
            _remove(model_folder / version)
        _remove(staging)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _versions(model_folder: Path) -> list[int]:
    return [int(entry.name) for entry in model_folder.iterdir() if entry.name.isdecimal()]


def _holds(path: Path, source: Path | bytes) -> bool:
    if not path.is_file():
        return False
    if isinstance(source, bytes):
        return path.read_bytes() == source
    return filecmp.cmp(source, path, shallow=False)


def _assemble(folder: Path, staged: Mapping[str, Path]) -> None:
    folder.mkdir(parents=True)
    for file, path in staged.items():
        path.rename(folder / file)
    _sync_folder(folder)


def _copy(source: Path | bytes, target: Path) -> Path:
    if isinstance(source, bytes):
        target.write_bytes(source)
    else:
        shutil.copyfile(source, target)
    return _sync(target)


def _write(target: Path, config: ModelConfig) -> Path:
    target.write_text(triton_config.to_text(config), encoding="utf-8")
    return _sync(target)


def _sync(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
