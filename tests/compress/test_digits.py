import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from compress.data import digits
from compress.errors import DataError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    digits.write(root / "train", root / "test")
    return root / "train", root / "test"


def test_all_scans_are_written_once_in_two_parts(folders):
    train, test = (sorted(folder.rglob("*.png")) for folder in folders)

    assert (len(train), len(test)) == (1437, 360)
    assert [sorted(entry.name for entry in folder.iterdir()) for folder in folders] == [
        sorted(digits.NAMES)
    ] * 2


def test_no_scan_is_in_both_parts_and_each_keeps_its_ink_and_its_class(folders):
    scans, labels = load_digits(return_X_y=True)
    expected = sorted(
        (digits.NAMES[label], tuple(int(level) for level in scan))
        for scan, label in zip(scans, labels, strict=True)
    )

    found = []
    for folder in folders:
        for path in folder.rglob("*.png"):
            pixels = np.asarray(Image.open(path)).astype(float)
            assert pixels.shape == (8, 8)
            levels = np.rint((255 - pixels) * 16 / 255).astype(int)
            found.append((path.parent.name, tuple(levels.ravel().tolist())))
    # As lists: the set would not notice a scan that is written twice.
    assert sorted(found) == expected


def test_folders_that_are_there_are_left_alone(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()

    digits.write(tmp_path / "train", tmp_path / "test")

    assert list(tmp_path.rglob("*.png")) == []


def test_others_may_read_the_pictures(folders):
    for folder in folders:
        assert folder.stat().st_mode & 0o055 == 0o055


def test_nothing_unfinished_stays_beside_the_folders(folders):
    assert sorted(entry.name for entry in folders[0].parent.iterdir()) == ["test", "train"]


def test_scans_are_not_written_wherever_a_slip_in_a_path_leads(tmp_path):
    slip = tmp_path / "nope"

    with pytest.raises(DataError, match="two folders side by side"):
        digits.write(slip, tmp_path / "data" / "test")

    assert not slip.exists()
    assert not (tmp_path / "data").exists()


def test_scans_that_are_there_may_lie_apart(folders, tmp_path):
    train, test = folders
    elsewhere = test.rename(tmp_path / "test")

    digits.write(train, elsewhere)

    elsewhere.rename(test)
