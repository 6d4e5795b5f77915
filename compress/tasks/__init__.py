"""The tasks a network can be compressed for: data and metric of each."""

from __future__ import annotations

from compress.tasks.classify import Classification
from compress.tasks.detect import Detection
from compress.tasks.segment import Segmentation
from compress.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "classify": Classification,
    "segment": Segmentation,
    "detect": Detection,
}
