"""Label sets: the names behind the class indices of a network, by set name or inline.

Source: of ``ade20k``, the numbers and the first name of each class in objectInfo150.txt of
https://github.com/CSAILVision/sceneparsing at commit 4ce20bd9115d415d545b26eaa0387a0740838ba5.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contract.errors import CardError

_SETS = Path(__file__).with_name("label_sets")


@dataclass(frozen=True)
class LabelSet:
    """Class ids and readable names, in the order of the network's outputs.

    Args:
        name: A set that ships with this package ("imagenet-1k"), or "inline".
        ids: One stable id a class, such as a WordNet synset; the name itself for inline sets.
        names: One readable name a class.
    """

    name: str
    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a set in which a class lacks its id or its name.

        Raises:
            CardError: As many ids as names are needed, and at least one.
        """
        if not self.names or len(self.ids) != len(self.names):
            raise CardError(
                f"a label set needs one id and one name a class, got {len(self.ids)} ids "
                f"and {len(self.names)} names"
            )

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def index(self, label: str) -> int | None:
        """Return the class that a folder or a user means by ``label``, or None.

        An id or a whole name; else one of these whatever its case and with ``_`` for a blank;
        else one of a name's comma-separated synonyms in the same way. The first of the three
        that fits counts; where several classes fit in it ("crane"), none is meant.

        >>> digits = inline(["zero", "one"])
        >>> digits.index("One"), digits.index("two")
        (1, None)
        """
        folded = _folded(label)
        for classes in (self._exact.get(label), self._whole.get(folded), self._part.get(folded)):
            if classes:
                return next(iter(classes)) if len(classes) == 1 else None
        return None

    @functools.cached_property
    def _exact(self) -> dict[str, set[int]]:
        return _classes_by_word(zip(self.ids, self.names, strict=True))

    @functools.cached_property
    def _whole(self) -> dict[str, set[int]]:
        pairs = zip(self.ids, self.names, strict=True)
        return _classes_by_word(map(_folded, pair) for pair in pairs)

    @functools.cached_property
    def _part(self) -> dict[str, set[int]]:
        return _classes_by_word(map(_folded, name.split(",")) for name in self.names)


def inline(names: list[str]) -> LabelSet:
    """Make a label set of a model's own.

    Raises:
        CardError: No name, an empty name, or the same name twice.
    """
    if not names or not all(name.strip() for name in names):
        raise CardError(
            f"labels: expected at least one name and no empty one, got {names!r}. Name each class."
        )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise CardError(
            f"labels: expected each name once, more often come {', '.join(twice)}. Leave out "
            "what is repeated, or tell classes of one name apart, such as 'crane (bird)'."
        )
    return LabelSet("inline", tuple(names), tuple(names))


@functools.cache
def load(name: str) -> LabelSet:
    """Load a label set that ships with this package.

    Raises:
        CardError: There is no set of that name.

    >>> load("imagenet-1k").names[0]
    'tench, Tinca tinca'
    """
    path = _SETS / f"{name}.tsv"
    if name not in available():
        raise CardError(f"unknown label set {name!r}; known sets: {', '.join(available())}")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return LabelSet(name, tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def available() -> list[str]:
    """Return the names of the label sets that ship with this package."""
    return sorted(path.stem for path in _SETS.glob("*.tsv"))


def _classes_by_word(words_of_classes: Iterable[Iterable[str]]) -> dict[str, set[int]]:
    classes: dict[str, set[int]] = {}
    for index, words in enumerate(words_of_classes):
        for word in words:
            classes.setdefault(word, set()).add(index)
    return classes


def _folded(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())
