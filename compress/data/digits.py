"""Handwritten digits as an ImageNet-style folder: real scans that come with scikit-learn.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (CC BY 4.0).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from compress.errors import DataError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_IMAGES = 360
_INK_LEVELS = 16


def write(train: Path, test: Path) -> None:
    """Write the 1,797 scans as 8 x 8 PNG files, dark ink on white paper, unless they are there.

    1,437 go below ``train`` and 360 below ``test``, one folder a digit.

    Raises:
        DataError: They are not there, and not named side by side: a slip in a path would write
            the scans wherever it leads.
    """
    if train.is_dir() and test.is_dir():
        return
    if train.absolute().parent != test.absolute().parent:
        raise DataError(
            f"data.source digits writes its scans into two folders side by side, such as "
            f"data/digits/train and data/digits/test, got {train} and {test}"
        )
    scans, digits = load_digits(return_X_y=True)
    # The split is part of the data set, so it has its own fixed seed.
    parts = train_test_split(scans, digits, test_size=TEST_IMAGES, random_state=0, stratify=digits)
    for root, pixels, labels in ((train, parts[0], parts[2]), (test, parts[1], parts[3])):
        if not root.is_dir():
            _write_folder(root, pixels.reshape(-1, 8, 8), labels)


def _write_folder(root: Path, scans: np.ndarray, digits: np.ndarray) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place when complete: a reader never finds half a data set.
    unfinished = root.with_name(f".{root.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for index, (scan, digit) in enumerate(zip(scans, digits, strict=True)):
        folder = unfinished / NAMES[digit]
        folder.mkdir(exist_ok=True)
        paper = 255 - np.rint(scan * (255 / _INK_LEVELS)).astype(np.uint8)
        Image.fromarray(paper).save(folder / f"{index:04}.png")
    unfinished.rename(root)
