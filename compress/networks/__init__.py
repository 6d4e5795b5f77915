"""The network families that can be compressed, one file each."""

from __future__ import annotations

from torch import nn

from compress.networks import auto, deformable_detr, deit, detr, mask_rcnn, swin, upernet
from compress.networks.network import Family, Left, left_in_float

FAMILIES: dict[str, Family] = {
    "deit": deit.FAMILY,
    "swin": swin.FAMILY,
    "auto": auto.FAMILY,
    "upernet": upernet.FAMILY,
    "mask_rcnn": mask_rcnn.FAMILY,
    "cascade_mask_rcnn": mask_rcnn.CASCADE_FAMILY,
    "detr": detr.FAMILY,
    "deformable_detr": deformable_detr.FAMILY,
}


def left(family: str, body: nn.Module) -> list[Left]:
    """Name every parameter of two or more axes that neither stage touches, with its reason.

    Args:
        family: Which of the families the body is of.
        body: Of the dense network.
    """
    known = FAMILIES[family]
    handled = [layer.name for layer in known.layers(body)]
    return left_in_float(body, handled, known.unhandled(body))
