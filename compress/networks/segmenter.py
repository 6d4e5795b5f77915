"""Semantic segmentation: one class a pixel."""

from __future__ import annotations

from torch import Tensor

from compress.networks.network import Network


class Segmenter(Network):
    """A network for semantic segmentation of transformers: its body gives ``logits``."""

    task = "segment"
    outputs = ("class_map",)

    def forward(self, images: Tensor, _hint: None = None) -> Tensor:
        """Return [b, k, h, w] logits of [b, h, w, 3] pictures, uint8 or float in 0..255."""
        logits: Tensor = self.body(pixel_values=self.pixels(images)).logits
        return logits

    def answer(self, raw: Tensor) -> dict[str, Tensor]:
        """Name the best class of each pixel.

        Args:
            raw: [b, k, h, w] logits, k <= 255.

        Returns:
            ``class_map`` [b, h, w] uint8: index in the label set.
        """
        # TensorRT makes uint8 of nothing but floats.
        return {"class_map": raw.argmax(dim=1).float().byte()}
