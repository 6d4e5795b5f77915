"""What a body is told beside the pictures: where its teacher looked, and where objects are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def hint(
    taught: Mapping[str, Tensor] | None, targets: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Put together what :meth:`compress.networks.regions.body.RegionBody.forward` takes.

    Args:
        taught: What the teacher gave without a hint; None where there is no teacher.
        targets: ``boxes`` [b, n, 4] in pixels and ``labels`` [b, n], -1 where there is no object;
            None where there are no labels.
    """
    told: dict[str, Tensor] = {}
    if taught is not None:
        told |= {name: value for name, value in taught.items() if name.startswith("regions.")}
        told |= {"valid": taught["valid"]}
        told |= {"mask_boxes": taught["boxes"], "mask_labels": taught["labels"]}
    if targets is not None:
        boxes, labels = targets["boxes"].float(), targets["labels"].long()
        if not labels.shape[1]:
            # A place for no object, so that every picture has something to be matched with.
            boxes = boxes.new_zeros(len(boxes), 1, 4)
            labels = torch.full_like(boxes[:, :, 0], -1, dtype=torch.long)
        told |= {"object_boxes": boxes, "object_labels": labels}
    return told
