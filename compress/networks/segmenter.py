"""Semantic segmentation: one class a pixel."""

from __future__ import annotations

from torch import Tensor

from compress.networks.network import Classifier


class Segmenter(Classifier):
    """A transformers network for semantic segmentation that reads pixels as they are stored.

    Its raw output is logits [b, k, h, w] at the size of the pictures.
    """

    outputs = ("class_map",)

    def answer(self, raw: Tensor) -> dict[str, Tensor]:
        """Name the best class of each pixel.

        Args:
            raw: [b, k, h, w] logits, k <= 255.

        Returns:
            ``class_map`` [b, h, w] uint8: index in the label set.
        """
        # TensorRT makes uint8 of nothing but floats.
        return {"class_map": raw.argmax(dim=1).float().byte()}
