"""Masks that outlines and run lengths have to get right."""

from __future__ import annotations

import numpy as np

Mask = np.ndarray


def disc(height: int, width: int) -> Mask:
    rows, columns = np.ogrid[:height, :width]
    return np.hypot((rows + 0.5) / height - 0.5, (columns + 0.5) / width - 0.5) < 0.4


def of_text(*rows: str) -> Mask:
    return np.array([[character == "#" for character in row] for row in rows])


MASKS = {
    "nothing": np.zeros((3, 5), bool),
    "everything": np.ones((4, 3), bool),
    "one pixel": np.ones((1, 1), bool),
    "no pixel": np.zeros((1, 1), bool),
    "a row": of_text("#.##.#"),
    "a column": of_text("#", ".", "#", "#"),
    "corners": of_text("#..#", "....", "#..#"),
    "columns to the edges": of_text("##.", "##.", "##."),
    "a ring": of_text(".....", ".###.", ".#.#.", ".###.", "....."),
    "a ring around a dot": of_text("#####", "#...#", "#.#.#", "#...#", "#####"),
    "touching, falling": of_text("#..", ".#.", "..#"),
    "touching, rising": of_text("..#", ".#.", "#.."),
    "a hole open at a corner": of_text("####", "#.##", "##.#", "####"),
    "chessboard": np.indices((7, 9)).sum(axis=0) % 2 == 0,
    "disc": disc(41, 57),
    "large": disc(700, 900),
    **{
        f"noise, {share} set": np.random.default_rng(seed).random((23, 31)) < share
        for seed, share in enumerate((0.03, 0.3, 0.5, 0.7, 0.97))
    },
}
