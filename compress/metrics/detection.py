"""COCO's average precision of boxes and of masks, by its own code.

Boxes and masks are brought back to the pixels of the pictures, in which the truth is.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.errors import DataError, PlanError
from contract.paste import paste
from contract.view import View

if TYPE_CHECKING:
    from compress.answers import Answers
    from compress.data.batch import Batch
    from compress.data.coco import CocoImages
    from compress.data.instances import Annotated
    from contract.preprocess import Preprocessing

# Places of COCOeval's summary.
_SUMMARY = {"ap": 0, "ap50": 1, "ap75": 2}
# One detection as COCO's result files have it, less its picture.
Detection = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What was detected in one picture.

    Args:
        index: Of the picture in its data set.
        objects: Best first.
        masked: Whether the network outlines objects.
    """

    index: int
    objects: list[Detection]
    masked: bool


class AveragePrecision:
    """Scores ``scores``, ``labels``, ``boxes`` and perhaps ``masks`` on annotated objects.

    Args:
        pictures: Opened for evaluation. Masks are scored where these and the network have them.
    """

    def __init__(self, pictures: CocoImages) -> None:
        self.pictures = pictures

    def of(self, answers: Answers, batch: Batch) -> list[Found]:
        """Bring a batch's detections back to their pictures, each by its index.

        Raises:
            PlanError: A detection is of no class.
        """
        _require_classes(answers, len(self.pictures.labels))
        found = []
        for place, index in enumerate(batch.indices):
            answer = {name: value[place] for name, value in answers.items()}
            size_px = self.pictures.truth(index).size_px
            objects = detections(answer, size_px, self.pictures.preprocessing)
            found.append(Found(index, objects, "masks" in answers))
        return found

    def values(self, found: list[Found]) -> dict[str, float]:
        """Return ``box_ap``, ``box_ap50``, ``box_ap75`` and, with masks, the same of them.

        Raises:
            DataError: No object is annotated.
        """
        truths = [self.pictures.truth(one.index) for one in found]
        answered = [one.objects for one in found]
        scored = average_precision(truths, answered, "bbox")
        outlined = any(
            record["segmentation"] is not None and not record["iscrowd"]
            for one in truths
            for record in one.records
        )
        if outlined and any(one.masked for one in found):
            scored.update(average_precision(truths, answered, "segm"))
        return scored


def detections(
    answer: dict[str, npt.NDArray[Any]], size_px: tuple[int, int], preprocessing: Preprocessing
) -> list[Detection]:
    """Return what was detected in one picture, best first, in its own pixels.

    Unused places, and boxes without any area in the picture, are left out.

    Args:
        answer: ``scores`` [q], ``labels`` [q], ``boxes`` [q, 4] and perhaps ``masks`` [q, m, m].
        size_px: Width and height of the upright picture.
        preprocessing: How the picture became the input.
    """
    view = View.of(size_px, preprocessing)
    scores = answer["scores"]
    order = np.argsort(-scores, kind="stable")
    boxes = view.boxes(answer["boxes"])
    clipped = view.clipped(boxes)
    found = []
    for place in order:
        left, top, right, bottom = clipped[place].tolist()
        if not (scores[place] > 0 and right > left and bottom > top):
            continue
        detection = {
            "category_id": int(answer["labels"][place]),
            "bbox": [left, top, right - left, bottom - top],
            "score": float(scores[place]),
        }
        if "masks" in answer:
            # The mask lies over the whole box, even where it reaches beyond the picture.
            detection["segmentation"] = _encoded(answer["masks"][place], boxes[place], size_px)
        found.append(detection)
    return found


def average_precision(
    truths: Sequence[Annotated], found: Sequence[list[Detection]], kind: str
) -> dict[str, float]:
    """Score detections by COCO's own code.

    Args:
        truths: What is annotated in each picture.
        found: What was detected in each.
        kind: "bbox" compares boxes, "segm" masks.

    Returns:
        ``box_ap`` or ``mask_ap``: the mean over IoU 0.50 to 0.95 and over the classes that occur;
        and the same at 0.50 and at 0.75.

    Raises:
        DataError: No object is annotated, or masks are asked for and a detection has none.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(truths, kind)
        evaluation = COCOeval(truth, _results(truth, truths, found, kind), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    what = {"bbox": "box", "segm": "mask"}[kind]
    return {f"{what}_{name}": float(evaluation.stats[at]) for name, at in _SUMMARY.items()}


def _require_classes(answers: Answers, classes: int) -> None:
    labels = answers["labels"][answers["scores"] > 0]
    if wrong := labels[(labels < 0) | (labels >= classes)].tolist():
        raise PlanError(
            f"expected classes below {classes} in labels, got {wrong[0]}. Choose the labels that "
            "the network was trained with."
        )


def _truth(truths: Sequence[Annotated], kind: str) -> Any:
    records = [
        {**record, "image_id": truth.image_id}
        for truth in truths
        for record in truth.records
        if kind == "bbox" or record["segmentation"] is not None
    ]
    if all(record["iscrowd"] for record in records):
        raise DataError("expected annotated objects to score detections on, found none")
    classes = sorted({record["category_id"] for record in records})
    truth = COCO()
    truth.dataset = {
        "images": [
            {"id": one.image_id, "width": one.size_px[0], "height": one.size_px[1]}
            for one in truths
        ],
        # COCOeval takes the number 0 for no object at all.
        "annotations": [{**record, "id": at} for at, record in enumerate(records, start=1)],
        "categories": [{"id": index} for index in classes],
    }
    truth.createIndex()
    return truth


def _results(
    truth: Any, truths: Sequence[Annotated], found: Sequence[list[Detection]], kind: str
) -> Any:
    results = [
        {**detection, "image_id": one.image_id}
        for one, detected in zip(truths, found, strict=True)
        for detection in detected
    ]
    if kind == "segm":
        if any("segmentation" not in result for result in results):
            raise DataError("expected a mask with every detection, got boxes alone")
        # By COCO's rule the size of a mask is its own, not that of its box.
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    if results:
        return truth.loadRes(results)
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _encoded(
    mask: npt.NDArray[np.float32], box: npt.NDArray[np.float64], size_px: tuple[int, int]
) -> dict[str, Any]:
    region = paste(mask, box, size_px)
    whole = np.zeros(size_px[::-1], np.uint8, order="F")
    rows, columns = region.mask.shape
    whole[region.top_px : region.top_px + rows, region.left_px : region.left_px + columns] = (
        region.mask
    )
    encoded: dict[str, Any] = coco_mask.encode(whole)
    return encoded
