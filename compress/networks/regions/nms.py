"""Non-maximum suppression without a loop over boxes and without shapes that depend on data.

A box is kept unless a better one that is kept overlaps it. Taken for all boxes at once, that is an
equation for what is kept, which one product with the matrix of overlaps checks. Repeated from
"all are kept", the answer for a box is final once those of the better ones that overlap it are: so
after as many sweeps as the longest chain of boxes that overlap the next, all answers are those of
the loop. Odd sweeps keep too little, even ones too much; the number here is odd, so where a chain
is longer yet, a box is missing rather than a duplicate present.

ONNX has an operator for it, NonMaxSuppression, whose number of outputs depends on the data;
products, subtractions and clipping are what every version of TensorRT compiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.boxes import overlaps


def kept(boxes: Tensor, threshold: float, sweeps: int, groups: Tensor | None = None) -> Tensor:
    """Say which boxes the greedy loop keeps.

    Args:
        boxes: [..., n, 4], the best first.
        threshold: A kept box suppresses worse ones that overlap it by more, in 0..1.
        sweeps: How often the answers are corrected; odd.
        groups: [..., n]; boxes suppress those of the same group only. None is one group.

    Returns:
        [..., n], 1 where a box is kept and 0 where it is not.
    """
    order = torch.arange(boxes.shape[-2], device=boxes.device)
    rivals = (overlaps(boxes, boxes) > threshold) & (order[:, None] < order)
    if groups is not None:
        rivals = rivals & (groups[..., :, None] == groups[..., None, :])
    # Row by row, whom a box suppresses while it is kept.
    suppresses = rivals.float()
    answers = (1 - suppresses.sum(dim=-2, keepdim=True)).clamp(min=0)
    for _ in range(sweeps - 1):
        answers = (1 - answers @ suppresses).clamp(min=0)
    return answers.squeeze(-2)
