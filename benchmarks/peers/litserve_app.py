"""LitServe: JSON with the picture in base64, as its guide for images has it; batches, workers.

python -m benchmarks.peers.litserve_app PORT
"""

# No annotations from the future: LitServe reads them.
import base64
import sys
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt

from benchmarks.peers.classifier import BATCH, WAIT_S, WORKERS, Classifier, Named, read


class Api(litserve.LitAPI):  # type: ignore[misc] # it is untyped where it is not installed
    """The classifier as LitServe has it."""

    def setup(self, _device: str) -> None:
        """Load the network in a worker."""
        self._network = Classifier()

    def decode_request(self, request: dict[str, str]) -> npt.NDArray[np.uint8]:
        """Decode one picture."""
        return read(base64.b64decode(request["image_data"]))

    def batch(self, inputs: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
        """Keep the pictures as they are; the classifier stacks them."""
        return inputs

    def predict(self, pictures: Any) -> Any:
        """Classify a batch, or one picture where there are no batches."""
        if isinstance(pictures, list):
            return self._network.classify(pictures)
        return self._network.classify([pictures])[0]

    def unbatch(self, output: list[list[Named]]) -> list[list[Named]]:
        """Keep one result a picture."""
        return output

    def encode_response(self, output: list[Named]) -> Any:
        """Return the answer."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=WAIT_S if BATCH > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
