"""What all peers serve: the pictures are decoded as the gateway does, ONNX Runtime classifies.

Chosen by the environment: PEER_MODEL is the ONNX file, PEER_THREADS how many threads of ONNX
Runtime one process has, PEER_WORKERS how many processes there are, PEER_BATCH how many pictures are
taken at once. Imports nothing but what is in every peer's environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from contract import labels
from contract.preprocess import Preprocessing, fit, preprocess

FORM = Preprocessing(224, 224, 248)
TOP_K = 5
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
BATCH = int(os.environ.get("PEER_BATCH", "1"))
WAIT_S = float(os.environ.get("PEER_WAIT_S", "0.005"))


# One class and how sure the network is of it, as JSON will have it.
Named = dict[str, Any]


class Classifier:
    """The network, loaded and warm."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._labels = labels.load("imagenet-1k")
        self.classify([np.zeros((FORM.height, FORM.width, 3), np.uint8)])

    def classify(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> list[list[Named]]:
        """Return the likeliest classes of each picture of a batch.

        Args:
            pictures: Each [h, w, 3].
        """
        scores: Any = self._session.run(None, {"image": np.stack(pictures)})[0]
        return [self._named(row) for row in scores]

    def _named(self, scores: npt.NDArray[np.float32]) -> list[Named]:
        best = np.argsort(-scores, kind="stable")[:TOP_K]
        return [
            {
                "label_id": self._labels.ids[index],
                "label": self._labels.names[index],
                "score": float(scores[index]),
            }
            for index in best
        ]


def read(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the network's input for the bytes of a picture: [h, w, 3]."""
    return preprocess(data, FORM)


def read_opened(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the network's input for a picture that the server opened: [h, w, 3]."""
    return fit(image.convert("RGB"), FORM)
