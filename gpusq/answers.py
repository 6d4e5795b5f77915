"""What the service answers, in its own words. Each is frozen and made of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpusq import rle

if TYPE_CHECKING:
    from PIL import Image

Polygons = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Box:
    """Two corners in pixels of the upright picture."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class RunLengths:
    """A mask over the upright picture, as `pycocotools.mask.decode` reads it too.

    Args:
        size: Height and width of the picture.
        counts: COCO's compressed run lengths.
    """

    size: tuple[int, int]
    counts: str

    def mask(self) -> Image.Image:
        """Return a grey picture (mode L) of that size, 255 where the mask is and 0 elsewhere.

        Raises:
            AnswerError: The run lengths do not fill the picture.
        """
        return rle.mask(self.counts, self.size)


@dataclass(frozen=True)
class Prediction:
    """One class and how sure the network is of it.

    Args:
        label_id: Stable id of the class.
        label: Readable name.
        index: Place in the network's output.
        score: Probability, 0 to 1.
    """

    label_id: str
    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Detection:
    """One thing in a picture.

    Args:
        label_id: Stable id of the class.
        label: Readable name.
        index: Place in the model's label set.
        score: How sure the network is, 0 to 1.
        box: Where it is.
        rle: Its mask, if asked for in this form.
        polygons: Its mask, if asked for in this form: x1, y1, x2, y2 and so on of each part.
    """

    label_id: str
    label: str
    index: int
    score: float
    box: Box
    rle: RunLengths | None = None
    polygons: Polygons | None = None


@dataclass(frozen=True)
class Area:
    """One class that a picture shows.

    Args:
        label_id: Stable id of the class.
        label: Readable name.
        index: Place in the model's label set, and value in the map.
        area_px: How many pixels of the upright picture show it.
        share: The same by all pixels of the picture, 0 to 1.
        rle: Where it is, if asked for in this form.
        polygons: Where it is, if asked for in this form.
    """

    label_id: str
    label: str
    index: int
    area_px: int
    share: float
    rle: RunLengths | None = None
    polygons: Polygons | None = None


@dataclass(frozen=True)
class PictureAnswer:
    """What every answer about a picture has.

    Args:
        model: Who answered.
        version: Of the model.
        image: Size of the upright picture.
        timings_ms: Milliseconds in the service by stage, and `total`.
        request_id: As the service's log has it.
    """

    model: str
    version: int
    image: Size
    timings_ms: Mapping[str, float]
    request_id: str


@dataclass(frozen=True)
class ClassifyAnswer(PictureAnswer):
    """What a picture shows.

    Args:
        predictions: The likeliest classes, best first.
    """

    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class DetectAnswer(PictureAnswer):
    """What a picture holds, and where.

    Args:
        detections: Highest score first.
    """

    detections: tuple[Detection, ...]


@dataclass(frozen=True)
class SegmentAnswer(PictureAnswer):
    """What each pixel of a picture shows.

    Args:
        classes: Those that occur, largest first.
        unseen_px: Pixels that the network did not see, 255 in the map.
        class_map: With `format="png"`: an 8-bit grey PNG of the picture's size, whose values are
            class indices.
    """

    classes: tuple[Area, ...]
    unseen_px: int
    class_map: bytes | None = None


@dataclass(frozen=True)
class Precision:
    """Number formats of the compressed layers."""

    weights: str
    activations: str


@dataclass(frozen=True)
class Accuracy:
    """How often a network is right on one data set, 0 to 1."""

    data: str
    metric: str
    images: int
    teacher: float
    sparse: float | None
    quantized: float


@dataclass(frozen=True)
class Model:
    """One model of the repository. One that is unavailable has a name and a reason only.

    Args:
        name: By which it is asked.
        state: `ready` or `unavailable`.
        default: Whether it answers requests for its task that name no model.
        reason: Why it is unavailable.
        version: Which is served.
        task: `classify`, `detect` or `segment`.
        description: For people.
        input: What the network sees of a picture.
        precision: Of its compressed layers.
        sparsity: `dense`, or a pattern such as `2:4`.
        classes: How many it knows.
        masks: Whether what it detects can come with a mask.
        accuracy: On data sets.
        executor: What runs it.
        file_bytes: Size of the file that is loaded.
        behind: Why a newer version, which lies in the repository, does not answer.
    """

    name: str
    state: str
    default: bool
    reason: str | None = None
    version: int | None = None
    task: str | None = None
    description: str | None = None
    input: Size | None = None
    precision: Precision | None = None
    sparsity: str | None = None
    classes: int | None = None
    masks: bool | None = None
    accuracy: tuple[Accuracy, ...] = ()
    executor: str | None = None
    file_bytes: int | None = None
    behind: str | None = None


@dataclass(frozen=True)
class Alias:
    """A name that stands for several models.

    Args:
        name: By which they are asked.
        state: `ready` or `unavailable`.
        default: Whether it answers requests for its task that name no model.
        models: Who answers, each with its share of the requests.
        reason: Why it is unavailable.
        task: `classify`, `detect` or `segment`.
    """

    name: str
    state: str
    default: bool
    models: Mapping[str, float]
    reason: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Limits:
    """The largest picture that is accepted."""

    max_body_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Models:
    """Every model of the repository; iterating gives one after the other."""

    models: tuple[Model, ...]
    limits: Limits
    aliases: tuple[Alias, ...] = ()

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)


@dataclass(frozen=True)
class Readiness:
    """Whether pictures can be sent, and the state of each model by name."""

    ready: bool
    models: Mapping[str, str]
