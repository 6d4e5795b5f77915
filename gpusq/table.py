"""Answers as text for people, in columns that line up whatever script the labels are in."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final, TypeAlias

from gpusq.answers import ClassifyAnswer, DetectAnswer, PictureAnswer, SegmentAnswer

Rows: TypeAlias = "list[tuple[str, ...]]"

_NUMBERS: Final = frozenset({"score", "share", "pixels", "left", "top", "right", "bottom"})
_UNSEEN: Final = "not seen"


def text(name: str, answer: PictureAnswer) -> str:
    """Return one line about a picture, and a table of what the network says of it."""
    width, height, total_ms = (
        answer.image.width,
        answer.image.height,
        answer.timings_ms.get("total", 0.0),
    )
    by = f"{printable(answer.model)} {answer.version}"
    lines = [f"{printable(name)}: {width} x {height}, {by}, {total_ms:.1f} ms"]
    header, *rows = _rows(answer)
    lines += aligned([header, *rows]) if rows else ["nothing found"]
    return "\n  ".join(lines)


def aligned(rows: Rows) -> list[str]:
    """Return rows as lines; the first has the names, by which columns of numbers go right.

    >>> aligned([("score", "label"), ("0.5", "猫"), ("0.25", "a")])
    ['score  label', '  0.5  猫', ' 0.25  a']
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*shown, strict=True)]
    return [_line(row, widths, rows[0]) for row in shown]


def columns(text: str) -> int:
    r"""Return how many columns of a terminal a text takes.

    >>> columns("cat"), columns("猫"), columns("e\u0301")
    (3, 2, 1)
    """
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    joined = sum(unicodedata.category(character) in ("Mn", "Me") for character in text)
    return len(text) + wide - joined


def printable(text: str) -> str:
    r"""Return a text in which nothing moves the cursor; what would is shown by its number.

    >>> printable("a\tb\x1b[2J")
    'a\\tb\\x1b[2J'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _line(row: Sequence[str], widths: Sequence[int], names: Sequence[str]) -> str:
    cells = []
    for cell, width, name in zip(row, widths, names, strict=True):
        space = " " * (width - columns(cell))
        cells.append(space + cell if name in _NUMBERS else cell + space)
    return "  ".join(cells).rstrip()


def _rows(answer: PictureAnswer) -> Rows:
    if isinstance(answer, ClassifyAnswer):
        named = [(f"{p.score:.3f}", p.label, p.label_id) for p in answer.predictions]
        return [("score", "label", "id"), *named]
    if isinstance(answer, DetectAnswer):
        return _things(answer)
    if isinstance(answer, SegmentAnswer):
        return _areas(answer)
    raise TypeError(f"Expected an answer about a picture, got {type(answer).__name__}.")


def _things(answer: DetectAnswer) -> Rows:
    rows: Rows = [("score", "label", "id", "left", "top", "right", "bottom")]
    for thing in answer.detections:
        box = thing.box
        sides = tuple(f"{side:.1f}" for side in (box.left, box.top, box.right, box.bottom))
        rows.append((f"{thing.score:.3f}", thing.label, thing.label_id, *sides))
    return rows


def _areas(answer: SegmentAnswer) -> Rows:
    rows: Rows = [("share", "pixels", "label", "id")]
    for area in answer.classes:
        rows.append((f"{area.share:.1%}", str(area.area_px), area.label, area.label_id))
    if answer.unseen_px:
        share = answer.unseen_px / (answer.image.width * answer.image.height)
        rows.append((f"{share:.1%}", str(answer.unseen_px), _UNSEEN, ""))
    return rows
