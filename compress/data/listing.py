"""Which pictures lie where: folders in ImageNet layout, and tar shards of them.

A shard is a plain tar file, read in place. Its pictures are labelled by a member of the same name
that ends in ``.cls`` (an index, an id or a name: WebDataset's layout), or by the folder they lie
in inside the tar file (an id or a name).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from compress.data.pictures import UNLABELLED
from compress.errors import DataError

if TYPE_CHECKING:
    from contract.labels import LabelSet

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SHARD = ".tar"
# More bytes than any class index, id or name takes.
_LABEL_BYTES = 1024


class Stored(NamedTuple):
    """One picture on disk.

    Args:
        path: Of its file, or of the shard that holds it.
        label: Its class; -1 has none.
        member: Its name inside the shard; empty for a file.
        offset: Of its first byte in the shard.
        size: In bytes; unused for a file.
    """

    path: str
    label: int
    member: str = ""
    offset: int = 0
    size: int = 0

    def read(self) -> bytes:
        """Return the encoded picture.

        Raises:
            OSError: The file is gone, cannot be read, or has become shorter.
        """
        if not self.member:
            return Path(self.path).read_bytes()
        with Path(self.path).open("rb") as shard:
            shard.seek(self.offset)
            data = shard.read(self.size)
        if len(data) < self.size:
            raise OSError(f"expected {self.size} bytes in {self.path}, got {len(data)}")
        return data

    def __str__(self) -> str:
        """Name the picture as people look for it."""
        return f"{self.path}:{self.member}" if self.member else self.path


def pictures_below(root: Path, labels: LabelSet | None) -> list[Stored]:
    """List the pictures below a folder, or in the tar shards below it, in a fixed order.

    Args:
        root: The folder.
        labels: That folder names and labels refer to; None for pictures without labels, which may
            lie at any depth.

    Raises:
        DataError: No such folder, no picture, both pictures and shards, or a label that is no
            class.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of pictures at {root}, found none")
    below = _files(root)
    shards = [path for path in below if path.suffix.lower() == _SHARD]
    files = [path for path in below if path.suffix.lower() in SUFFIXES]
    if shards and files:
        raise DataError(
            f"expected either pictures or tar shards below {root}, found {len(files)} pictures, "
            f"the first being {files[0]}, and {len(shards)} shards, the first being {shards[0]}. "
            "Keep them in separate folders; data.train takes several."
        )
    if shards:
        found = [stored for shard in shards for stored in _in_shard(shard, labels)]
    elif labels is None:
        found = [Stored(str(path), UNLABELLED) for path in files]
    else:
        found = _labelled(root, files, labels)
    if not found:
        if labels is not None and any(_is_picture(path) for path in root.iterdir()):
            raise DataError(
                f"expected one folder a class below {root}, found pictures in it. If it is the "
                "folder of a class, give the folder above."
            )
        kinds = ", ".join(sorted(SUFFIXES))
        raise DataError(f"expected pictures ({kinds}) below {root}, found none")
    return found


def _labelled(root: Path, files: list[Path], labels: LabelSet) -> list[Stored]:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry))
    classes = {folder.name: labels.index(folder.name) for folder in folders}
    if unknown := [name for name, label in classes.items() if label is None]:
        raise DataError(
            f"{len(unknown)} folders of {root} name no single class of the label set "
            f"{labels.name!r}: {', '.join(unknown[:5])}. Name them by class id or full class name."
        )
    return [
        Stored(str(path), label)
        for path in files
        if (label := classes.get(path.relative_to(root).parts[0])) is not None
    ]


def _in_shard(shard: Path, labels: LabelSet | None) -> Iterator[Stored]:
    try:
        with tarfile.open(shard) as opened:
            members = [member for member in opened if member.isfile()]
            names = {_stem(member.name): member for member in members if _kind(member) == ".cls"}
            given = {
                stem: opened.extractfile(member).read(_LABEL_BYTES).decode().strip()  # type: ignore[union-attr]
                for stem, member in (names.items() if labels else ())
            }
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the shard {shard}: {error}") from error
    for member in members:
        if _kind(member) in SUFFIXES and not _hidden(PurePosixPath(member.name)):
            label = UNLABELLED if labels is None else _label(shard, member, given, labels)
            yield Stored(str(shard), label, member.name, member.offset_data, member.size)


def _label(shard: Path, member: tarfile.TarInfo, given: dict[str, str], labels: LabelSet) -> int:
    beside = given.get(_stem(member.name))
    said = PurePosixPath(member.name).parent.name if beside is None else beside
    index = labels.index(said)
    if beside is not None and said.isdecimal() and int(said) < len(labels):
        if index not in (None, int(said)):
            raise DataError(
                f"{shard}: {member.name} is labelled {said!r}, which is both the name of class "
                f"{index} and the index of another one. Label by folders inside the tar file."
            )
        index = int(said)
    if index is None:
        raise DataError(
            f"{shard}: {member.name} is labelled {said!r}, which is no class of the label set "
            f"{labels.name!r}. Give a .cls member with an index, id or full name, or a folder."
        )
    return index


def _files(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in {*SUFFIXES, _SHARD}
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _hidden(path)


def _kind(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _hidden(path: Path | PurePosixPath) -> bool:
    return path.name.startswith(".")
