"""Pictures on which dense and compressed network see different objects or areas, side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from compress.answers import Answers
from compress.data.loading import at_once, ordered_batches
from compress.data.pictures import Pictures
from compress.evaluate import torch_asked
from compress.networks.network import Network
from compress.pairing import SAME_OBJECT, SEEN, pairs
from compress.thumbnail import address

_LONGEST_PX = 320
# Of a class map over the picture.
_OPACITY = 0.55


@dataclass(frozen=True)
class Sketch:
    """One picture as two networks see it; the pictures are ``data:`` addresses.

    Args:
        dense: The picture with what the dense network sees drawn over it.
        compressed: The same of the compressed network.
        agreement: Share of what the dense network sees that the compressed one sees too.
    """

    dense: str
    compressed: str
    agreement: float


@dataclass(frozen=True)
class Sketches:
    """Where two networks differ most.

    Args:
        agreement: Mean over the pictures that were looked at.
        pictures: How many.
        of: What is agreed on.
        examples: The worst first.
        legend: Colours of the classes that occur, by name.
    """

    agreement: float
    pictures: int
    of: str
    examples: list[Sketch]
    legend: dict[str, str]


def compare(
    teacher: Network,
    student: Network,
    pictures: Pictures,
    names: Sequence[str],
    *,
    limit: int = 48,
    examples: int = 6,
) -> Sketches:
    """Ask two networks for the objects or areas of held-out pictures, and draw both answers.

    Args:
        teacher: Dense.
        student: Compressed; of the same task.
        pictures: To look at, spread evenly over the set.
        names: Of the classes.
        limit: Pictures to ask about.
        examples: Largest number of pictures to draw.
    """
    areas = "class_map" in teacher.outputs
    found: list[tuple[float, npt.NDArray[np.uint8], Answers, Answers]] = []
    for batch in ordered_batches(pictures, at_once(pictures, 8), limit):
        if not len(batch.images):
            continue
        pixels = batch.images.numpy()
        ours, theirs = (torch_asked(network)(pixels) for network in (teacher, student))
        for index in range(len(pixels)):
            one, other = _only(ours, index), _only(theirs, index)
            share = _areas(one, other) if areas else _objects(one, other)
            found.append((share, pixels[index], one, other))
    found.sort(key=lambda entry: entry[0])
    worst = [entry for entry in found if entry[0] < 1][:examples]
    seen = sorted({label for _, _, *both in worst for one in both for label in _labels(one)})
    return Sketches(
        agreement=float(np.mean([share for share, *_ in found])),
        pictures=len(found),
        of="pixels" if areas else "objects",
        examples=[
            Sketch(_address(pixels, one), _address(pixels, other), share)
            for share, pixels, one, other in worst
        ],
        legend={names[label]: "#{:02x}{:02x}{:02x}".format(*colour(label)) for label in seen},
    )


def colour(label: int) -> tuple[int, int, int]:
    """Return a colour that neighbouring classes do not share."""
    # Steps of the golden ratio round the circle of hues never fall on one another.
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _address(pixels: npt.NDArray[np.uint8], answers: Answers) -> str:
    return address(_drawn(pixels, answers), _LONGEST_PX)


def _only(answers: Answers, index: int) -> Answers:
    return {name: value[index : index + 1] for name, value in answers.items()}


def _areas(one: Answers, other: Answers) -> float:
    return float((one["class_map"] == other["class_map"]).mean())


def _objects(one: Answers, other: Answers) -> float:
    """Return the share of both networks' objects that the other one sees in the same place."""
    both = [*pairs(one, other, 0), *pairs(other, one, 0)]
    return float(np.mean([pair.overlap >= SAME_OBJECT for pair in both])) if both else 1.0


def _labels(answers: Answers) -> list[int]:
    if "class_map" in answers:
        return [int(label) for label in np.unique(answers["class_map"])]
    return [int(label) for label in answers["labels"][answers["scores"] >= SEEN]]


def _drawn(pixels: npt.NDArray[np.uint8], answers: Answers) -> Image.Image:
    image = Image.fromarray(pixels)
    if "class_map" in answers:
        classes = answers["class_map"][0]
        palette = np.array([colour(label) for label in range(int(classes.max()) + 1)], np.uint8)
        return Image.blend(image, Image.fromarray(palette[classes]), _OPACITY)
    height, width = pixels.shape[:2]
    draw = ImageDraw.Draw(image)
    thickness = max(1, min(height, width) // 100)
    for place in np.flatnonzero(answers["scores"][0] >= SEEN)[::-1]:
        box = answers["boxes"][0, place] * (width, height, width, height)
        left, top, right, bottom = box.tolist()
        if right > left and bottom > top:
            outline = colour(int(answers["labels"][0, place]))
            draw.rectangle((left, top, right, bottom), outline=outline, width=thickness)
    return image
