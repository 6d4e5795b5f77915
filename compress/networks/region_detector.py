"""Networks that propose regions and classify them, as training and export see them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.networks.network import Network
from compress.networks.regions import hints
from compress.networks.regions.body import RegionBody


class RegionDetector(Network):
    """A detector with instance masks that reads pixels as they are stored.

    Its body is of a fixed input size.
    """

    task = "detect"
    outputs = ("scores", "labels", "boxes", "masks")

    body: RegionBody

    def forward(
        self, images: Tensor, hint: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Look at pictures [b, h, w, 3]; see :meth:`RegionBody.forward` for what comes back."""
        found: dict[str, Tensor] = self.body(self.pixels(images), hint)
        return found

    def hint(
        self, raw: Mapping[str, Tensor] | None, targets: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return what a student needs to be compared with this network and with labels.

        Args:
            raw: What this network gave without a hint; None where nobody teaches.
            targets: Labelled objects; see :func:`compress.networks.regions.hints.hint`.
        """
        return hints.hint(raw, targets)

    def answer(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn what ``forward`` gives without a hint into the graph's outputs.

        Returns:
            ``scores`` [b, q], the best first, ``labels`` int32 [b, q], ``boxes`` [b, q, 4] in 0..1
            of the input and ``masks`` [b, q, 28, 28] in 0..1, each within its box.
        """
        config = self.body.config
        height, width = config.image_size
        drawn = [raw[f"masks.{stage}"].sigmoid() for stage in range(config.stages)]
        return {
            "scores": raw["scores"],
            "labels": raw["labels"].int(),
            "boxes": raw["boxes"] / raw["boxes"].new_tensor([width, height, width, height]),
            "masks": torch.stack(drawn).mean(dim=0) if len(drawn) > 1 else drawn[0],
        }
