"""Draw what was answered over the picture: boxes and masks, a map of classes, or names beneath."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Final, TypeAlias

from PIL import Image, ImageDraw, ImageFont, ImageOps

from gpusq.answers import ClassifyAnswer, DetectAnswer, Detection, PictureAnswer, SegmentAnswer
from gpusq.errors import AnswerError, PictureError
from gpusq.table import printable

Colour: TypeAlias = tuple[int, int, int]

MASK_OPACITY: Final = 0.45
MAP_OPACITY: Final = 0.6
UNSEEN: Final = 255
_WHITE: Final = (255, 255, 255)
_BLACK: Final = (0, 0, 0)
# Readable where the whole picture is shown on a screen, whatever its size.
_LETTERS_ACROSS: Final = 45
_LEAST_EM_PX: Final = 12
_MOST_ROWS: Final = 12
_MOST_LETTERS: Final = 80


def draw(data: bytes, answer: PictureAnswer) -> Image.Image:
    """Return a picture, upright, with an answer drawn over it or written beneath.

    Args:
        data: The file that was asked about.
        answer: What came.

    Raises:
        PictureError: Pillow cannot read the file.
        AnswerError: The answer is about a picture of another size, or has no map, or is none that
            could be drawn.
    """
    picture = upright(data)
    if picture.size != (answer.image.width, answer.image.height):
        raise AnswerError(
            f"Expected an answer about {picture.width} x {picture.height} pixels, it is about "
            f"{answer.image.width} x {answer.image.height}."
        )
    if isinstance(answer, ClassifyAnswer):
        said = [(None, f"{p.score:.2f}  {_short(p.label)}") for p in answer.predictions]
        return _beneath(picture, said)
    if isinstance(answer, DetectAnswer):
        return _with_things(picture, answer.detections)
    if isinstance(answer, SegmentAnswer):
        return _with_map(picture, answer)
    raise TypeError(f"Expected an answer about a picture, got {type(answer).__name__}.")


def upright(data: bytes) -> Image.Image:
    """Return a file's picture as RGB: turned as it says, and on white where it is transparent.

    Raises:
        PictureError: Pillow cannot read it.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened)
            return _rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"Nothing can be drawn over it: {error}.") from error


def colour(index: int) -> Colour:
    """Return the colour of a class, the same as on the service's page.

    Neighbours differ most when each takes the golden angle from the one before.
    """
    hue = (index * 137.508) % 360
    light = (0.55, 0.42, 0.68)[index % 3]
    spread = 0.75 * min(light, 1 - light)

    def channel(offset: int) -> int:
        at = (offset + hue / 30) % 12
        return int(255 * (light - spread * max(-1, min(at - 3, 9 - at, 1))) + 0.5)

    return channel(0), channel(8), channel(4)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Sixteen bits; Pillow would cut off what is above 255.
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, _WHITE)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def _em_px(picture: Image.Image) -> int:
    return max(_LEAST_EM_PX, round(max(picture.size) / _LETTERS_ACROSS))


def _font(em_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(em_px)


def _with_things(picture: Image.Image, things: tuple[Detection, ...]) -> Image.Image:
    # The highest score comes first, and on top.
    for thing in reversed(things):
        if thing.rle is not None:
            _require_size("a mask", picture, (thing.rle.size[1], thing.rle.size[0]))
            _tint(picture, thing.rle.mask(), colour(thing.index))
    pen, em_px = ImageDraw.Draw(picture), _em_px(picture)
    for thing in reversed(things):
        left, top, right, bottom = _pixels(thing, picture.size)
        pen.rectangle(
            (left, top, right - 1, bottom - 1), outline=colour(thing.index), width=em_px // 6
        )
    for thing in reversed(things):
        _name(pen, thing, picture.size, em_px)
    return picture


def _pixels(thing: Detection, size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels of a box, at least one each way: left, top, right and bottom edges."""
    box, (width, height) = thing.box, size_px
    sides = (box.left, box.top, box.right, box.bottom)
    if not all(map(math.isfinite, sides)):
        raise AnswerError(f"Expected a box in pixels, got {sides}. Does another service answer?")
    left, top = max(0, min(int(box.left), width - 1)), max(0, min(int(box.top), height - 1))
    right, bottom = min(round(box.right), width), min(round(box.bottom), height)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _tint(picture: Image.Image, mask: Image.Image, tint: Colour) -> None:
    if (place := mask.getbbox()) is None:
        return
    part = picture.crop(place)
    tinted = Image.blend(part, Image.new("RGB", part.size, tint), MASK_OPACITY)
    picture.paste(tinted, place, mask.crop(place))


def _name(pen: ImageDraw.ImageDraw, thing: Detection, size_px: tuple[int, int], em_px: int) -> None:
    said = f"{_short(thing.label)} {thing.score:.2f}"
    font, edge = _font(em_px), em_px // 4
    height = em_px + 2 * edge
    left, top, *_ = _pixels(thing, size_px)
    long = int(pen.textlength(said, font)) + 2 * edge
    # Above the box, or in it where there is no room; never beyond the right edge.
    x = max(0, min(left, size_px[0] - long))
    y = top if top < height else top - height
    ground = colour(thing.index)
    pen.rectangle((x, y, x + long - 1, y + height - 1), fill=ground)
    ink = _BLACK if _is_light(ground) else _WHITE
    pen.text((x + edge, y + height / 2), said, fill=ink, font=font, anchor="lm")


def _with_map(picture: Image.Image, answer: SegmentAnswer) -> Image.Image:
    if answer.class_map is None:
        raise AnswerError("Expected a class map to draw, the answer has none. Ask with format=png.")
    classes = _classes(answer.class_map, picture)
    tints = classes.copy()
    tints.putpalette([channel for index in range(256) for channel in colour(index)])
    tinted = Image.blend(picture, tints.convert("RGB"), MAP_OPACITY)
    picture.paste(tinted, None, classes.point(lambda index: 255 * (index != UNSEEN)))
    return _beneath(
        picture,
        [
            (colour(area.index), f"{area.share:.1%}  {_short(area.label)}")
            for area in answer.classes
        ],
    )


def _classes(class_map: bytes, picture: Image.Image) -> Image.Image:
    try:
        with Image.open(io.BytesIO(class_map), formats=("PNG",)) as png:
            _require_size("a class map", picture, png.size)
            classes: Image.Image = png.convert("L")
            return classes
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AnswerError(f"Expected a class map as PNG: {error}.") from error


def _require_size(what: str, picture: Image.Image, came_px: tuple[int, int]) -> None:
    if came_px != picture.size:
        raise AnswerError(
            f"Expected {what} of {picture.width} x {picture.height} pixels, it has "
            f"{came_px[0]} x {came_px[1]}."
        )


def _beneath(picture: Image.Image, rows: Sequence[tuple[Colour | None, str]]) -> Image.Image:
    """Return the picture with lines of text under it, each with a patch of its colour."""
    if len(rows) > _MOST_ROWS:
        rows = [*rows[: _MOST_ROWS - 1], (None, f"and {len(rows) - _MOST_ROWS + 1} more")]
    em_px = _em_px(picture)
    font, step = _font(em_px), round(1.5 * em_px)
    patches = any(tint for tint, _ in rows)
    indent = 2 * em_px if patches else em_px // 2
    measure = ImageDraw.Draw(picture)
    widest = max((measure.textlength(printable(said), font) for _, said in rows), default=0)
    width = max(picture.width, int(indent + widest) + em_px)
    sheet = Image.new("RGB", (width, picture.height + step * len(rows) + em_px // 2), _WHITE)
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for i, (tint, said) in enumerate(rows):
        middle = picture.height + step * i + (step + em_px // 2) / 2
        if tint:
            patch = (em_px // 2, middle - em_px // 2, em_px // 2 + em_px, middle + em_px // 2)
            pen.rectangle(patch, fill=tint)
        pen.text((indent, middle), printable(said), fill=_BLACK, font=font, anchor="lm")
    return sheet


def _short(label: str) -> str:
    # ImageNet and ADE20K name a class by several words.
    name = printable(label.partition(", ")[0])
    # The sheet is as wide as its text.
    return name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS]}..."


def _is_light(ground: Colour) -> bool:
    red, green, blue = ground
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
