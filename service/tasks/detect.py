"""Detection: boxes in the network's input become things in the picture. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from contract.labels import LabelSet
from contract.paste import paste
from service.errors import Code, GatewayError, ModelError
from service.tasks import agreement, contours, rle
from service.tasks.contours import Polygon
from service.tasks.rle import Rle
from service.tasks.task import Asked, Outputs, Shapes, Task

Masks = Literal["none", "rle", "polygons"]
MIN_SCORE: Final = 0.3
MAX_DETECTIONS: Final = 100
MASKS: Final = "masks"
# A hundredth of a pixel is far below what any network knows.
_DECIMALS: Final = 2


@dataclass(frozen=True)
class Options:
    """What a request may choose.

    Args:
        min_score: The least score that is answered.
        max_detections: How many are answered at most, of the highest scores.
        masks: In which form each comes with its mask, if at all.
    """

    min_score: float = MIN_SCORE
    max_detections: int = MAX_DETECTIONS
    masks: Masks = "none"


@dataclass(frozen=True)
class Detection:
    """One thing in a picture.

    Args:
        index: Its class, as a place in the label set.
        label_id: Stable id of the class, such as that of a COCO category.
        label: Readable name.
        score: How sure the network is, 0 to 1.
        box: Left, top, right and bottom in pixels of the upright picture, inside it.
        rle: Its mask, if asked for in this form.
        polygons: Its mask, if asked for in this form.
    """

    index: int
    label_id: str
    label: str
    score: float
    box: tuple[float, float, float, float]
    rle: Rle | None = None
    polygons: list[Polygon] | None = None

    @property
    def rounded_box(self) -> tuple[float, float, float, float]:
        """The box as answers have it, to a hundredth of a pixel."""
        left, top, right, bottom = (round(side, _DECIMALS) for side in self.box)
        return left, top, right, bottom


def require_outputs(outputs: Shapes, labels: LabelSet) -> None:
    """Check that a network's outputs are those of a detector.

    Raises:
        ModelError: Not float32 ``scores`` [b, q], int32 ``labels`` [b, q] and float32 ``boxes``
            [b, q, 4]; or ``masks`` that are not float32 [b, q, m, m].
    """
    places = outputs.get("scores", ("", (-1, -1)))[1][1:]
    expected = {
        "scores": ("float32", (-1, *places)),
        "labels": ("int32", (-1, *places)),
        "boxes": ("float32", (-1, *places, 4)),
    }
    if MASKS in outputs:
        cells = outputs[MASKS][1][-1]
        expected[MASKS] = ("float32", (-1, *places, cells, cells))
    if len(places) != 1 or any(outputs.get(name) != shape for name, shape in expected.items()):
        raise ModelError(
            f"the card has {len(labels)} labels to detect, so the outputs must be float32 'scores' "
            "[-1, q], int32 'labels' [-1, q], float32 'boxes' [-1, q, 4] and, where there are any, "
            f"float32 'masks' [-1, q, m, m], got {dict(outputs)}"
        )


def predict(outputs: Outputs, asked: Asked[Options]) -> list[Detection]:
    """Return what was detected in one picture, highest score first.

    Unused places, and boxes that lie outside the picture, are none.

    Args:
        outputs: ``scores``, ``labels``, ``boxes`` and perhaps ``masks``, as the contract says.
        asked: The labels and the choices.

    Raises:
        GatewayError: Masks are asked for and there are none; or a value is not as the contract
            says, which only a broken network gives.
    """
    if asked.options.masks != "none" and MASKS not in outputs:
        raise GatewayError(
            Code.INVALID_ARGUMENT,
            f"masks: expected none, because this model gives boxes only, got "
            f"{asked.options.masks!r}. Leave it out, or ask a model with masks.",
        )
    scores = outputs["scores"][0]
    _require(bool(np.isfinite(scores).all()), "scores that are not numbers")
    places = _places(scores, asked.options.min_score)
    boxes = asked.view.boxes(outputs["boxes"][0][places])
    _require(bool(np.isfinite(boxes).all()), "boxes that are not numbers")
    clipped = asked.view.clipped(boxes)
    shown = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    detections = []
    for i in shown[: asked.options.max_detections]:
        if asked.given_up():
            break
        named = _named(outputs, places[i], clipped[i], asked.labels)
        detections.append(_masked(named, outputs, places[i], boxes[i], asked))
    return detections


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise GatewayError(Code.INTERNAL, f"The network gave {otherwise}.")


def _places(scores: npt.NDArray[np.float32], min_score: float) -> npt.NDArray[np.intp]:
    """Return the places that count, highest score first; of equal ones the lower place first."""
    order = np.argsort(-scores, kind="stable")
    # An unused place has the score 0, which no choice of the least score lets through.
    enough = (scores >= np.float32(min_score)) & (scores > 0)
    return np.compress(enough[order], order)


def _named(
    outputs: Outputs, place: np.intp, box: npt.NDArray[np.float64], labels: LabelSet
) -> Detection:
    index = int(outputs["labels"][0][place])
    _require(0 <= index < len(labels), f"the class {index}, and there are {len(labels)}")
    left, top, right, bottom = map(float, box)
    return Detection(
        index,
        labels.ids[index],
        labels.names[index],
        float(outputs["scores"][0][place]),
        (left, top, right, bottom),
    )


def _masked(
    detection: Detection,
    outputs: Outputs,
    place: np.intp,
    box: npt.NDArray[np.float64],
    asked: Asked[Options],
) -> Detection:
    form, size_px = asked.options.masks, asked.view.size_px
    if form == "none":
        return detection
    # The whole box, even where it reaches beyond the picture: the mask lies over all of it.
    region = paste(outputs[MASKS][0][place], box, size_px)
    if form == "rle":
        return replace(detection, rle=rle.of_region(region, size_px))
    return replace(detection, polygons=contours.of_region(region))


TASK: Final = Task("detect", require_outputs, predict, agreement.of_boxes)
