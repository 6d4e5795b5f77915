"""Detection by queries: what DETR and Deformable DETR share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from compress.boxes import to_xyxy
from compress.errors import CheckpointError
from compress.networks import checkpoint as checkpoints
from compress.networks.network import Network

BOX_REASON = "the box head stays dense: a small part, and every coordinate passes through it"
# COCO numbers its 80 classes from 1 to 90 and leaves these out.
_COCO_ROWS = 91
_COCO_UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


class QueryDetector(Network):
    """A detector of transformers in which each query names one object or none.

    The pictures fill the input, or what fills it up is part of the picture: there is no mask of
    valid pixels, so nothing but pixels tells two pictures apart.
    """

    task = "detect"
    outputs = ("scores", "labels", "boxes")

    def forward(self, images: Tensor, hint: Tensor | None = None) -> dict[str, Tensor]:
        """Detect the objects of pictures.

        Args:
            images: [b, h, w, 3] uint8, or float in 0..255.
            hint: As :meth:`detect` takes it.

        Returns:
            What :meth:`detect` does, and ``sides`` [4]: width, height, width and height of the
            pictures in pixels.
        """
        height, width = images.shape[1:3]
        found = self.detect(self.pixels(images), hint)
        # Filled in on the device, so that no step waits for a copy.
        sides = torch.zeros(2, 2, device=found["logits"].device)
        sides[:, 0], sides[:, 1] = width, height
        return {**found, "sides": sides.flatten()}

    @abstractmethod
    def detect(self, pixels: Tensor, hint: Tensor | None) -> dict[str, Tensor]:
        """Return what each query says.

        Args:
            pixels: Normalised pictures [b, 3, h, w].
            hint: Places [b, q] of the queries, where places of the picture are queries.

        Returns:
            ``logits`` [b, q, c] and ``boxes`` [b, q, 4] as centre and sides in 0..1.
        """


def best_queries(scores: Tensor, labels: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Sort what each query says by its score, the highest first.

    Args:
        scores: [b, q].
        labels: [b, q].
        boxes: [b, q, 4] as centre and sides.
    """
    sorted_scores, places = scores.topk(scores.shape[1], dim=1)
    return {
        "scores": sorted_scores,
        "labels": labels.gather(1, places).int(),
        "boxes": _boxes_at(boxes, places),
    }


def best_pairs(scores: Tensor, boxes: Tensor, most: int) -> dict[str, Tensor]:
    """Take the best pairs of a query and a class, the highest score first.

    Args:
        scores: [b, q, k].
        boxes: [b, q, 4] as centre and sides.
        most: Pairs; fewer where there are not so many.
    """
    _, queries, classes = scores.shape
    best, places = scores.flatten(1).topk(min(most, queries * classes), dim=1)
    # Rounds down: places are exact in float32, and an integer division is six nodes in the graph.
    query = ((places.float() + 0.5) / classes).long()
    return {
        "scores": best,
        "labels": (places - query * classes).int(),
        "boxes": _boxes_at(boxes, query),
    }


def cut_to_labels(body: Any, heads: list[Any], checkpoint: str, classes: int) -> None:
    """Leave of class heads the rows that a label set names.

    Checkpoints for COCO have a row for each of the 91 numbers that its files use, 80 of which
    name a class. The head is cut when it is loaded, not in the answer: labels, distillation and
    the graph then count classes alike, and the graph computes no row that nobody reads. Of
    DETR's softmax, what the network gave to numbers that no object has goes to the rest.

    Args:
        body: Its configuration learns the new number of classes.
        heads: Linears, changed in place; rows after those of the classes stay.
        checkpoint: For errors.
        classes: How many the label set names.

    Raises:
        CheckpointError: The checkpoint tells another number of classes apart.
    """
    unused = _COCO_UNUSED if body.config.num_labels == _COCO_ROWS else ()
    if classes == body.config.num_labels - len(unused):
        for head in heads:
            kept = [row for row in range(head.out_features) if row not in unused]
            head.weight = torch.nn.Parameter(head.weight.detach()[kept].clone())
            head.bias = torch.nn.Parameter(head.bias.detach()[kept].clone())
            head.out_features = len(kept)
        body.config.num_labels = classes
    checkpoints.require_classes(body, checkpoint, classes)


def require_plain_stride(found: Any, checkpoint: str) -> None:
    """Refuse a configuration that widens the last stage, which no weight tells.

    Raises:
        CheckpointError: It says ``dilation``.
    """
    dilation = found.get("dilation") if isinstance(found, dict) else found.dilation
    if dilation:
        raise CheckpointError(
            f"{checkpoint} has a dilated last stage (DC5), which is not supported. "
            "Take the checkpoint without dilation."
        )


def _boxes_at(boxes: Tensor, places: Tensor) -> Tensor:
    return to_xyxy(boxes).clamp(0, 1).gather(1, places[..., None].expand(-1, -1, 4))
