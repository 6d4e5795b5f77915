import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.folder import ImageFolder
from compress.data.listing import pictures_below
from compress.data.loading import ordered_batches
from compress.errors import DataError
from contract import labels
from contract.preprocess import Preprocessing
from tests.compress import tiny

SIZE = Preprocessing(8, 8, 8)
LABELS = labels.inline(list(tiny.CLASSES))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return tiny.write_pictures(tmp_path / "pictures", each=3)


def add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))


def web_shards(pictures: Path, folder: Path) -> Path:
    """Pack pictures as WebDataset does, in the order of their folders, two shards."""
    folder.mkdir()
    files = sorted(pictures.rglob("*.png"))
    for number, part in enumerate((files[:4], files[4:])):
        with tarfile.open(folder / f"{number:03}.tar", "w") as shard:
            for index, path in enumerate(part):
                add(shard, f"{index:06}.png", path.read_bytes())
                add(shard, f"{index:06}.cls", str(LABELS.index(path.parent.name)).encode())
    return folder


def pixels(images: ImageFolder) -> np.ndarray:
    return np.concatenate([batch.images.numpy() for batch in ordered_batches(images, 4)])


def test_shards_hold_the_same_pictures_and_labels_as_folders(pictures, tmp_path):
    folders = ImageFolder(pictures, LABELS, SIZE)

    shards = ImageFolder(web_shards(pictures, tmp_path / "shards"), LABELS, SIZE)

    assert len(shards) == 9
    assert [stored.label for stored in shards.files] == [stored.label for stored in folders.files]
    assert np.array_equal(pixels(shards), pixels(folders))


def test_a_shard_of_folders_is_labelled_by_them(pictures, tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "all.tar", "w") as shard:
        shard.add(pictures, arcname="train")

    shards = ImageFolder(tmp_path / "shards", LABELS, SIZE)

    found = {(Path(stored.member).parent.name, stored.label) for stored in shards.files}
    assert found == {("red", 0), ("green", 1), ("blue", 2)}


def test_without_labels_every_picture_counts_whatever_its_label_says(pictures, tmp_path):
    folder = web_shards(pictures, tmp_path / "shards")
    with tarfile.open(folder / "more.tar", "w") as shard:
        add(shard, "a.png", (pictures / "red" / "00.png").read_bytes())
        add(shard, "a.cls", b"no class at all")
        add(shard, "readme.txt", b"not a picture")

    found = pictures_below(folder, None)

    assert len(found) == 10
    assert {stored.label for stored in found} == {-1}


def test_a_damaged_picture_in_a_shard_is_named_and_left_out(pictures, tmp_path):
    folder = web_shards(pictures, tmp_path / "shards")
    with tarfile.open(folder / "002.tar", "w") as shard:
        add(shard, "broken.jpg", b"no picture")
        add(shard, "broken.cls", b"green")

    batches = list(ordered_batches(ImageFolder(folder, LABELS, SIZE), 4))

    assert sum(len(batch.targets) for batch in batches) == 9
    ((name, reason),) = [entry for batch in batches for entry in batch.skipped]
    assert name.endswith("002.tar:broken.jpg")
    assert reason


def test_a_shard_that_lost_its_end_after_it_was_listed_costs_pictures_not_the_run(
    pictures, tmp_path
):
    folder = web_shards(pictures, tmp_path / "shards")
    images = ImageFolder(folder, LABELS, SIZE)
    last = folder / "001.tar"
    last.write_bytes(last.read_bytes()[: images.files[-1].offset + 5])

    (batch,) = ordered_batches(images, 16)

    assert len(batch.targets) == 8
    assert "expected" in batch.skipped[0][1]


@pytest.mark.parametrize("said", [b"7", b"purple", b""])
def test_a_label_that_is_no_class_is_refused_by_name(pictures, tmp_path, said):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "one.tar", "w") as shard:
        add(shard, "a.png", (pictures / "red" / "00.png").read_bytes())
        add(shard, "a.cls", said)

    with pytest.raises(DataError, match=r"one\.tar: a\.png is labelled .* which is no class"):
        ImageFolder(tmp_path / "shards", LABELS, SIZE)


def numbered(folder: Path, member: str, said: bytes | None = None) -> list[int]:
    """Return the labels that classes named 3, 2 and 1 give to one picture in a shard."""
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "one.png")
    picture = (folder / "one.png").read_bytes()
    (folder / "one.png").unlink()
    with tarfile.open(folder / "one.tar", "w") as shard:
        add(shard, f"{member}.png", picture)
        if said is not None:
            add(shard, f"{member}.cls", said)
    return [stored.label for stored in pictures_below(folder, labels.inline(["3", "2", "1"]))]


def test_a_folder_in_a_shard_that_is_a_number_is_a_name(tmp_path):
    assert numbered(tmp_path / "shards", "1/a") == [2]


@pytest.mark.parametrize(("said", "label"), [(b"0", 0), (b"3", 0)])
def test_a_number_beside_a_picture_is_an_index_or_a_name(tmp_path, said, label):
    assert numbered(tmp_path / "shards", "a", said) == [label]


def test_a_number_that_is_two_classes_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"a\.png is labelled '1', which is both the name of class 2"
    ):
        numbered(tmp_path / "shards", "a", b"1")


@pytest.mark.parametrize("known", [LABELS, None])
def test_shards_in_subfolders_are_found(pictures, tmp_path, known):
    web_shards(pictures, tmp_path / "shards")
    (tmp_path / "shards" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "shards" / "001.tar").rename(tmp_path / "shards" / "deep" / "er" / "001.tar")

    assert len(pictures_below(tmp_path / "shards", known)) == 9


@pytest.mark.parametrize("known", [LABELS, None])
def test_pictures_beside_shards_are_refused_by_name(pictures, tmp_path, known):
    folder = web_shards(pictures, tmp_path / "shards")
    (folder / "red").mkdir()
    (pictures / "red" / "00.png").rename(folder / "red" / "00.png")

    with pytest.raises(
        DataError, match=r"found 1 pictures, .*red/00\.png, and 2 shards, .*000\.tar"
    ):
        pictures_below(folder, known)


def test_a_file_that_is_no_tar_is_refused_by_name(tmp_path):
    (tmp_path / "not.tar").write_bytes(b"no tar" * 200)

    with pytest.raises(DataError, match=r"cannot read the shard .*not\.tar"):
        ImageFolder(tmp_path, LABELS, SIZE)


def test_a_shard_without_pictures_is_refused(tmp_path):
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass

    with pytest.raises(DataError, match="expected pictures"):
        ImageFolder(tmp_path, LABELS, SIZE)
