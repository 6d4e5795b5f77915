"""MLServer: a custom runtime that takes pictures in base64, by the Open Inference Protocol in JSON.

mlserver start FOLDER, whose model-settings.json names this class
"""

from __future__ import annotations

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.classifier import Classifier, read


class Photos(MLModel):  # type: ignore[misc] # it is untyped where it is not installed
    """The classifier as MLServer has it."""

    async def load(self) -> bool:
        """Load the network in a worker."""
        self._network = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Decode and classify what came, which may be a batch."""
        pictures = [read(data) for data in Base64Codec.decode_input(payload.inputs[0])]
        found = [json.dumps(one) for one in self._network.classify(pictures)]
        return InferenceResponse(
            model_name=self.name,
            outputs=[StringCodec.encode_output("predictions", found, use_bytes=False)],
        )
