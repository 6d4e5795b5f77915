"""BentoML: a form with the picture in the field ``images``; adaptive batches in so many workers.

bentoml serve benchmarks.peers.bentoml_app:Photos --port PORT
"""

from __future__ import annotations

import bentoml
from PIL.Image import Image

from benchmarks.peers.classifier import (
    BATCH,
    WORKERS,
    Classifier,
    Named,
    read_opened,
)


@bentoml.service(workers=WORKERS, logging={"access": {"enabled": False}})
class Photos:
    """The classifier as BentoML has it."""

    def __init__(self) -> None:
        self._network = Classifier()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=10_000)  # type: ignore[untyped-decorator]
    def classify(self, images: list[Image]) -> list[list[Named]]:
        """Decode and classify a batch."""
        return self._network.classify([read_opened(image) for image in images])
