"""Annotation files in COCO layout: which objects each picture has.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.data.masks import decoded
from compress.errors import DataError

if TYPE_CHECKING:
    from contract.labels import LabelSet

# What records of another layout raise where they are read.
_FAULTS = (KeyError, TypeError, ValueError, AttributeError)
# A polygon needs three corners.
_LEAST_NUMBERS = 6
# Drawing takes memory by the length of a polygon's edges.
_FAR_PX = 1e5


@dataclass(frozen=True)
class Annotated:
    """One picture of an annotation file.

    Args:
        file_name: Below the folder of pictures.
        image_id: As the file has it.
        size_px: Width and height.
        records: All its objects as the file has them, crowds included, for evaluation; but
            ``category_id`` is the index in the label set, and ``segmentation`` is None where
            nothing can be drawn.
        boxes: [n, 4] left, top, right, bottom in pixels, inside the picture: the objects to train
            on, which are neither crowds nor without any area.
        labels: [n] index of each in the label set.
        outlines: [n] polygons or run lengths of each; None where nothing can be drawn.
    """

    file_name: str
    image_id: Any
    size_px: tuple[int, int]
    records: list[dict[str, Any]]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    outlines: list[Any]


@dataclass
class Instances:
    """What an annotation file says.

    Args:
        pictures: In the order of the file; those without objects too.
        dropped: Objects that cannot be trained on, by name, with the reason.
    """

    pictures: list[Annotated] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)


def read_instances(path: Path, labels: LabelSet, *, outlines: bool) -> Instances:
    """Read an annotation file.

    Args:
        path: Of the JSON file.
        labels: Categories are looked up in it by their names.
        outlines: Whether an object is dropped whose outline cannot be drawn.

    Raises:
        DataError: No such file, not in this layout, or a category that is no class of the label
            set.
    """
    plain = _load(path)
    try:
        return _Reader(path, plain, labels, outlines).instances()
    except _FAULTS as error:
        raise DataError(
            f"expected instances in COCO layout in {path}, got {type(error).__name__}: {error}. "
            "Each picture needs id, file_name, width and height; each object id, image_id, "
            "category_id and bbox [x, y, width, height]; each category id and name."
        ) from error


def _load(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"expected annotations at {path}, found none") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected annotations in JSON at {path}, cannot read them: {error}. Write them again."
        ) from error
    parts = ("images", "annotations", "categories")
    if not isinstance(plain, dict) or not all(isinstance(plain.get(p), list) for p in parts):
        raise DataError(f"expected lists of {', '.join(parts)} in {path}; is it in COCO layout?")
    if not plain["images"]:
        raise DataError(f"expected pictures in {path}, found none")
    return plain


class _Reader:
    def __init__(self, path: Path, plain: dict[str, Any], labels: LabelSet, outlines: bool) -> None:
        self.path, self.plain, self.labels, self.outlines = path, plain, labels, outlines
        self.classes = self._classes()
        self.sizes_px = {
            image["id"]: (int(image["width"]), int(image["height"])) for image in plain["images"]
        }
        if len(self.sizes_px) < len(plain["images"]):
            raise ValueError("several pictures with one id")
        self.found = Instances()

    def instances(self) -> Instances:
        """Sort the objects by picture."""
        by_picture: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for place, annotation in enumerate(self.plain["annotations"]):
            record = self._named_record(place, annotation)
            by_picture[annotation["image_id"]].append(record)
        for image in self.plain["images"]:
            self.found.pictures.append(self._picture(image, by_picture.pop(image["id"], [])))
        if by_picture:
            raise DataError(
                f"{sum(map(len, by_picture.values()))} objects of {self.path} are in pictures that "
                f"it does not list: {', '.join(map(str, list(by_picture)[:5]))}"
            )
        return self.found

    def _classes(self) -> dict[Any, int]:
        """Return the class of each category that has objects."""
        names = {category["id"]: str(category["name"]) for category in self.plain["categories"]}
        used = {annotation["category_id"] for annotation in self.plain["annotations"]}
        if unlisted := [repr(category) for category in used if category not in names]:
            raise DataError(
                f"{self.path} has objects of categories that it does not list: "
                f"{', '.join(unlisted[:5])}"
            )
        classes = {category: self.labels.index(names[category]) for category in used}
        if unknown := sorted(names[category] for category in used if classes[category] is None):
            raise DataError(
                f"{len(unknown)} categories of {self.path} are no single class of the label set "
                f"{self.labels.name!r}: {', '.join(unknown[:5])}. Rename them, or choose labels "
                "that have them."
            )
        return {category: index for category, index in classes.items() if index is not None}

    def _named_record(self, place: int, annotation: dict[str, Any]) -> dict[str, Any]:
        """Read the object at a place of the file; what is wrong with it is said of that place."""
        try:
            return self._record(annotation)
        except _FAULTS as error:
            raise ValueError(f"annotations[{place}]: {type(error).__name__}: {error}") from error

    def _record(self, annotation: dict[str, Any]) -> dict[str, Any]:
        left, top, width, height = map(float, annotation["bbox"])
        if not all(map(math.isfinite, (left, top, width, height))):
            raise ValueError(f"bbox {annotation['bbox']} of object {annotation['id']}")
        size_px = self.sizes_px.get(annotation["image_id"], (0, 0))
        return {
            "id": annotation["id"],
            "category_id": self.classes[annotation["category_id"]],
            "bbox": [left, top, width, height],
            # Some files leave it out; the box is what is known then.
            "area": float(annotation.get("area", width * height)),
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "segmentation": _outline(annotation.get("segmentation") or [], size_px),
        }

    def _picture(self, image: dict[str, Any], records: list[dict[str, Any]]) -> Annotated:
        size_px = self.sizes_px[image["id"]]
        boxes, classes, outlines = [], [], []
        for record in records:
            if record["iscrowd"]:
                continue
            box = _inside(record["bbox"], size_px)
            if reason := self._useless(record, box):
                name = f"{image['file_name']}, object {record['id']}"
                self.found.dropped[name] = reason
                continue
            boxes.append(box)
            classes.append(record["category_id"])
            outlines.append(record["segmentation"])
        return Annotated(
            str(image["file_name"]),
            image["id"],
            size_px,
            records,
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(classes, np.int64),
            outlines,
        )

    def _useless(self, record: dict[str, Any], box: list[float]) -> str:
        """Say why an object cannot be trained on; empty if it can."""
        if box[2] <= box[0] or box[3] <= box[1]:
            return f"its box {record['bbox']} has no area inside the picture"
        if self.outlines and record["segmentation"] is None:
            return (
                "its outline is no polygon of three corners and no run lengths that fit its picture"
            )
        return ""


def _inside(bbox: list[float], size_px: tuple[int, int]) -> list[float]:
    left, top, width, height = bbox
    corners = (left, top, left + width, top + height)
    return [min(max(corner, 0.0), size_px[axis % 2]) for axis, corner in enumerate(corners)]


def _outline(segmentation: Any, size_px: tuple[int, int]) -> Any:
    """Return the usable polygons, or run lengths that fit the picture; None if there are none."""
    if isinstance(segmentation, list):
        drawable = [polygon for polygon in segmentation if _can_be_drawn(polygon)]
        # A list takes four times the memory of an array, and outlines are most of such a file.
        return [np.array(polygon, np.float64) for polygon in drawable] or None
    return segmentation if _fits(segmentation, size_px) else None


def _fits(run_lengths: dict[str, Any], size_px: tuple[int, int]) -> bool:
    counts, size = run_lengths["counts"], run_lengths["size"]
    if tuple(size) != size_px[::-1]:
        return False
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        return whole and sum(counts) == size_px[0] * size_px[1]
    try:
        # COCO's own code scores damaged text without a word.
        return isinstance(counts, str) and decoded(run_lengths).shape == size_px[::-1]
    except DataError:
        return False


def _can_be_drawn(polygon: list[float]) -> bool:
    whole = len(polygon) >= _LEAST_NUMBERS and len(polygon) % 2 == 0
    return whole and all(-_FAR_PX < place < _FAR_PX for place in polygon)
