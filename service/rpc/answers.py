"""The gateway's answers as messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format

from service.answer import Answer
from service.cards import ModelsAnswer
from service.rpc.gpusq.v1 import vision_pb2 as messages
from service.tasks.classify import Prediction
from service.tasks.contours import Polygon
from service.tasks.detect import Detection
from service.tasks.rle import Rle
from service.tasks.segment import Segmentation


def classified(answer: Answer[list[Prediction]]) -> messages.ClassifyResponse:
    """Say what a picture shows."""
    found = [messages.Prediction(**prediction.__dict__) for prediction in answer.result]
    return messages.ClassifyResponse(predictions=found, **_about(answer))


def detected(answer: Answer[list[Detection]]) -> messages.DetectResponse:
    """Say what a picture holds, and where."""
    found = [_detection(detection) for detection in answer.result]
    return messages.DetectResponse(detections=found, **_about(answer))


def segmented(answer: Answer[Segmentation]) -> messages.SegmentResponse:
    """Say what each pixel of a picture shows."""
    result = answer.result
    areas = [
        messages.Area(
            label_id=area.label_id,
            label=area.label,
            index=area.index,
            area_px=area.area_px,
            share=area.share,
            rle=_runs(area.rle),
            polygons=_polygons(area.polygons),
        )
        for area in result.classes
    ]
    return messages.SegmentResponse(
        classes=areas, unseen_px=result.unseen_px, class_map=result.png, **_about(answer)
    )


def models(answer: ModelsAnswer) -> messages.ListModelsResponse:
    """Say what each model is."""
    said = answer.model_dump(exclude_none=True)
    for one in (*said["models"], *said["aliases"]):
        one["state"] = f"STATE_{one['state'].upper()}"
    response: messages.ListModelsResponse = json_format.ParseDict(
        said, messages.ListModelsResponse()
    )
    return response


def _about(answer: Answer[Any]) -> dict[str, Any]:
    return {
        "model": answer.model,
        "version": answer.version,
        "image": messages.Size(width=answer.width_px, height=answer.height_px),
        "timings_ms": messages.Timings(**answer.timings_ms),
    }


def _detection(found: Detection) -> messages.Detection:
    left, top, right, bottom = found.rounded_box
    return messages.Detection(
        label_id=found.label_id,
        label=found.label,
        index=found.index,
        score=found.score,
        box=messages.Box(left=left, top=top, right=right, bottom=bottom),
        rle=_runs(found.rle),
        polygons=_polygons(found.polygons),
    )


def _runs(runs: Rle | None) -> messages.RunLengths | None:
    if runs is None:
        return None
    height, width = runs.size
    return messages.RunLengths(height=height, width=width, counts=runs.counts)


def _polygons(polygons: Iterable[Polygon] | None) -> list[messages.Polygon]:
    return [messages.Polygon(points=polygon) for polygon in polygons or ()]
