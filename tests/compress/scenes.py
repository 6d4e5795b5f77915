"""Small data sets in the layouts of COCO and ADE20K, whose truth can be seen in the pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Colours are far apart, so that a pixel of a picture says which class it is.
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
CLASSES = ("red", "green", "blue")
# Category numbers with gaps, as in COCO.
CATEGORIES = [{"id": 7 * (index + 1), "name": name} for index, name in enumerate(CLASSES)]


def write_scenes(root: Path, sizes_px: list[tuple[int, int]], seed: int = 0) -> Path:
    """Write pictures of large coloured tiles, black where nothing is labelled, and their maps."""
    rng = np.random.default_rng(seed)
    for part in ("images", "annotations"):
        (root / part / "training").mkdir(parents=True, exist_ok=True)
    for index, (width, height) in enumerate(sizes_px):
        tiles = rng.integers(0, 4, (4, 4)).astype(np.uint8)
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        numbers = tiles[rows[:, None], columns]
        name = f"{index:02}.png"
        Image.fromarray(COLOURS[numbers]).save(root / "images" / "training" / name)
        Image.fromarray(numbers).save(root / "annotations" / "training" / name)
    return root


def class_of(pixels: np.ndarray) -> np.ndarray:
    """Return the class that each pixel's colour says, 255 for black."""
    distance = np.abs(pixels[..., None, :].astype(int) - COLOURS.astype(int)).sum(axis=-1)
    return (distance.argmin(axis=-1) - 1).astype(np.uint8)


def write_objects(root: Path, pictures: list[tuple[tuple[int, int], list[Any]]]) -> Path:
    """Write black pictures with objects, and the annotation file.

    Args:
        root: Gets ``images`` and ``instances.json``.
        pictures: Of each its width and height, and its objects: class, x, y, width, height and
            perhaps "crowd".
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index, ((width, height), objects) in enumerate(pictures):
        pixels = np.zeros((height, width, 3), np.uint8)
        for label, left, top, wide, high, *crowd in objects:
            corner = (max(0, top), max(0, left))
            pixels[corner[0] : top + high, corner[1] : left + wide] = COLOURS[label + 1]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": 100 + index,
                    "category_id": CATEGORIES[label]["id"],
                    "bbox": [left, top, wide, high],
                    "area": wide * high,
                    "iscrowd": len(crowd),
                    "segmentation": (
                        run_lengths((left, top, wide, high), (width, height))
                        if crowd
                        else [corners(left, top, wide, high)]
                    ),
                }
            )
        Image.fromarray(pixels).save(root / "images" / f"{index:02}.png")
        images.append(
            {"id": 100 + index, "file_name": f"{index:02}.png", "width": width, "height": height}
        )
    plain = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "instances.json").write_text(json.dumps(plain))
    return root


def corners(left: float, top: float, wide: float, high: float) -> list[float]:
    """Return a box as a polygon."""
    right, bottom = left + wide, top + high
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(box: tuple[int, int, int, int], size_px: tuple[int, int]) -> dict[str, Any]:
    """Return a box as COCO's run lengths, down the columns."""
    left, top, wide, high = box
    width, height = size_px
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + high, left : left + wide] = 1
    counts, last = [0], 0
    for value in mask.ravel(order="F").tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return {"size": [height, width], "counts": counts}


def edited(root: Path, change: Any) -> Path:
    """Change the annotation file of :func:`write_objects`."""
    path = root / "instances.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    return path
